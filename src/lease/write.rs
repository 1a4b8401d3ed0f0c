//! Write leases: a shared mapping of a file that nobody else has open, and its way out once somebody wants it.
//!
//! A write lease is granted only while nobody else has the file open, and whoever then opens it is held by the kernel
//! until the lease is given back. At three quarters of the time that the kernel grants, memory takes the place of the
//! mapping while other threads go on storing to it:
//!
//! 1. Memory without pages, whose first touch waits (userfaultfd(2)), is moved over the mapping in one step. Every store
//!    before that is in the file; every touch after it waits.
//! 2. Page by page the bytes of the file are given to the memory, and whoever waits goes on.
//! 3. The lease is given back, and the file closed.
//!
//! (A private mapping of the same file would not do: its pages are lost, also those that were stored to, when the file
//! is truncated.) Sources: fcntl(2), "Leases"; fs/locks.c; ioctl_userfaultfd(2).
#![allow(unsafe_code)]

use super::monitor::{Answer, Deadline, Holder, Keeper, Place};
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::locked_pages::LockedPages;
use crate::page;
use crate::range::whole_pages;
use crate::region::Region;
use crate::sys::file;
use crate::sys::lease::{self, Lease, Released};
use crate::sys::memory as mapping;
use crate::sys::pages;
use crate::sys::process::abort;
use crate::sys::thread;
use crate::sys::userfault::Userfault;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why there is no write lease.
pub(crate) enum Refused {
    /// Somebody has the file open, or came just now.
    Busy,
    /// Nobody can give one.
    Never(&'static str),
    Failed(Error),
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> Refused {
    move |e| Refused::Failed(Error::os(call, None, e))
}

/// A file that nobody else has open; the mapping comes when its size is known to stay. Dropping it lets others in.
pub(crate) struct WriteLease {
    file: File,
    keeper: &'static Keeper,
}

impl WriteLease {
    /// `file` is a description of our own, open for reading and writing.
    pub(crate) fn take(file: File) -> Result<Self, Refused> {
        let system = FileSystem::from_fd(file.as_fd()).map_err(failed("fstatfs"))?;
        if !system.keeps_leases() {
            return Err(Refused::Never("its file system has no leases to rely on"));
        }
        if !system.writes_in_place() {
            // A store may need new space; a disk that has none would answer with a signal.
            return Err(Refused::Never(
                "its file system writes pages to new places, and could not tell of a full disk",
            ));
        }
        if !Userfault::is_available() {
            return Err(Refused::Never(
                "userfaultfd(2) is refused (by a container's seccomp filter, or the kernel), so others could not be let in",
            ));
        }
        let keeper = Keeper::get().ok_or(Refused::Never(
            "no thread can be had that watches over it (see ulimit -u, vm.max_map_count)",
        ))?;
        if let Err(e) = keeper.take(file.as_fd(), Lease::Write) {
            return Err(match e.raw_os_error() {
                Some(libc::EAGAIN) => Refused::Busy,
                Some(libc::EACCES) => Refused::Never("it belongs to another user"),
                Some(libc::EINVAL) => Refused::Never("leases are off (see fs.leases-enable)"),
                _ => failed("fcntl")(e),
            });
        }
        Ok(WriteLease { file, keeper })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Maps the first `len` bytes, which have blocks on the disk.
    pub(crate) fn map(self, len: usize) -> Result<Editable, Refused> {
        let region = map(&self.file, len).map_err(Refused::Failed)?;
        split_page_cache_folios(&region);
        let locked = region.shared_locked_pages();
        let slot = Arc::new(Slot {
            start: AtomicUsize::new(region.start().as_ptr().addr()),
            mapped: AtomicUsize::new(region.len()),
            file: Mutex::new(Some(Arc::new(self.file))),
            keeper: self.keeper,
            state: Mutex::new(State {
                region,
                len,
                hold: Hold::Leased,
            }),
            over: AtomicBool::new(false),
            place: Place::default(),
        });
        let editable = Editable { slot, locked };
        let holder = Arc::clone(&editable.slot);
        match editable.slot.keeper.watch(holder) {
            true => Ok(editable),
            false => Err(Refused::Busy),
        }
    }
}

/// At least one page, though it may be behind the end of the file: what is mapped can grow.
fn map(file: &File, len: usize) -> Result<Region> {
    let pages = whole_pages(len.max(1), page::size())?;
    let anywhere = mapping::Place::Anywhere;
    let region = Region::shared(file.as_fd(), pages, anywhere, mapping::Pages::Zeroed)?;
    // A forked child could not keep the promise: the lease is answered for in this process only.
    let apart = region.advise(0..region.len(), libc::MADV_DONTFORK);
    apart.map_err(|e| Error::os("madvise", None, e))?;
    Ok(region)
}

/// Files up to this size are worth it, in bytes.
const SPLIT_MAX: usize = 256 << 20;

/// Page-cache folios start at multiples of their size, so every one of this size or more has a page at a multiple of it. Looking
/// costs the more the smaller the step; what is written in vain for a store is less than a step.
const SPLIT_STEP: usize = 128 << 10;

/// The page cache keeps what was written in one go in large folios (up to 2 MiB, Linux 6.16 on ext4), and writes a page-cache folio
/// as a whole, also if one byte of it was stored through a mapping. `MADV_COLD` for a part of a page-cache folio splits it into
/// pages, so that a flush writes what was changed. Costs about 0.13 ms for each MiB that is cached, and 0.05 ms
/// when it was done before.
fn split_page_cache_folios(region: &Region) {
    if region.len() > SPLIT_MAX {
        return;
    }
    let page = page::size();
    let mut answers = vec![0; region.len() / page];
    if pages::mincore(region.addresses().start, &mut answers).is_err() {
        return;
    }
    for (number, answer) in answers.iter().enumerate().step_by(SPLIT_STEP / page) {
        // What is not cached stays on the disk.
        if answer & 1 == 0 {
            continue;
        }
        let here = number * page..(number + 1) * page;
        // Only what is in the page tables is split. The last page may be behind the end of the file.
        if region
            .advise(here.clone(), libc::MADV_POPULATE_READ)
            .is_ok()
        {
            let _ = region.advise(here, libc::MADV_COLD);
        }
    }
}

/// A shared mapping of a file that nobody else has open, until somebody had to be let in; then memory.
pub(crate) struct Editable {
    slot: Arc<Slot>,
    /// Those of the region, which is locked while the pages are replaced.
    locked: Option<Arc<LockedPages>>,
}

impl Editable {
    /// Which pages of the mapping are locked.
    pub(crate) fn locked_pages(&self) -> Option<&LockedPages> {
        self.locked.as_deref()
    }

    /// Where the mapping starts, until it is resized.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.slot.state().region.start()
    }

    /// The file, as long as stores go to it. A forked child has the descriptor, and must not change its parent's file.
    pub(crate) fn file(&self) -> Option<Arc<File>> {
        let ours = self.slot.keeper.is_of_this_process();
        ours.then(|| self.slot.file()).flatten()
    }

    /// True if somebody waits for the file, or got it already.
    pub(crate) fn has_waiter(&self) -> bool {
        self.file().is_none_or(|file| !is_held(&file))
    }

    /// Changes the length of the mapping, after `size` has changed that of the file; `None` if the lease is gone.
    pub(crate) fn resize(
        &mut self,
        len: usize,
        size: impl FnOnce(&File) -> Result<()>,
    ) -> Option<Result<()>> {
        let file = self.file()?;
        let mut state = self.slot.state();
        match state.hold {
            Hold::Leased => {
                let resized = self.slot.resize(&mut state, len, &file, size);
                self.locked = state.region.shared_locked_pages();
                Some(resized)
            }
            _ => None,
        }
    }

    /// Lets others in. False if they were let in before.
    pub(crate) fn end(self) -> bool {
        self.slot.end()
    }
}

impl Drop for Editable {
    fn drop(&mut self) {
        self.slot.end();
    }
}

/// A lease and the mapping under it, shared with the keeper.
struct Slot {
    /// Where the mapping is, and how many bytes are mapped.
    start: AtomicUsize,
    mapped: AtomicUsize,
    /// Locked for a moment only.
    file: Mutex<Option<Arc<File>>>,
    keeper: &'static Keeper,
    /// Locked while the mapping is changed.
    state: Mutex<State>,
    /// There is nothing to answer for any more.
    over: AtomicBool,
    place: Place,
}

struct State {
    region: Region,
    /// Bytes of the file.
    len: usize,
    hold: Hold,
}

enum Hold {
    Leased,
    /// The mapping is memory, whose pages from `given` bytes on are waited for; the lease is held still.
    Moving {
        pages: Userfault,
        given: usize,
    },
    /// The mapping is memory.
    Detached,
}

fn is_held(file: &File) -> bool {
    lease::is_held(file.as_fd(), Lease::Write)
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves the mapping as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resize(
        &self,
        state: &mut State,
        len: usize,
        file: &File,
        size: impl FnOnce(&File) -> Result<()>,
    ) -> Result<()> {
        whole_pages(len.max(1), page::size())?;
        let old = state.len;
        size(file)?;
        let resized = state.region.resize(len.max(1), page::size());
        let region = &state.region;
        self.start
            .store(region.start().as_ptr().addr(), Ordering::Relaxed);
        self.mapped.store(region.len(), Ordering::Relaxed);
        match resized {
            Err(error) if len > old => {
                let _ = file.set_len(old as u64);
                return Err(error);
            }
            // What is behind the end of the file stays mapped, and is never touched.
            _ => state.len = len,
        }
        Ok(())
    }

    /// Unmaps and lets others in. False if they were let in before.
    fn end(&self) -> bool {
        if self.over.swap(true, Ordering::AcqRel) {
            return true;
        }
        if !self.keeper.is_of_this_process() {
            // A forked process inherited the descriptor, but neither the mapping nor the lease, which is its parent's.
            if let Ok(mut state) = self.state.try_lock() {
                let region = std::mem::replace(&mut state.region, Region::empty());
                match state.hold {
                    Hold::Leased | Hold::Moving { .. } => std::mem::forget(region),
                    Hold::Detached => drop(region),
                }
            }
            return false;
        }
        self.keeper.forget(self);
        let mut state = self.state();
        // Its pages first: the prefetcher may wait for one that nobody gives any more, and unmapping waits for it.
        let hold = std::mem::replace(&mut state.hold, Hold::Detached);
        let stored = matches!(hold, Hold::Leased);
        drop(hold);
        state.region = Region::empty();
        drop(state);
        self.let_in() && stored
    }

    fn file(&self) -> Option<Arc<File>> {
        self.lock_file().clone()
    }

    fn lock_file(&self) -> MutexGuard<'_, Option<Arc<File>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the lease back and closes the file. False if it was taken by force, or given back before.
    fn let_in(&self) -> bool {
        let file = self.lock_file().take();
        // Said, not left to the closing of the descriptor: a forked child may have it open still.
        file.is_some_and(|file| lease::release(file.as_fd()) != Released::Taken)
    }

    /// Makes the mapping memory, while others store to it.
    fn detach(&self, state: &mut State, file: &File) -> io::Result<()> {
        if let Hold::Leased = state.hold {
            let pages = move_memory_over(&state.region)?;
            state.hold = Hold::Moving { pages, given: 0 };
        }
        let start = state.region.start();
        let end =
            page::round_up(state.len).map_or(state.region.len(), |n| n.min(state.region.len()));
        if let Hold::Moving { pages, given } = &mut state.hold {
            let mut step = vec![0; STEP];
            while *given < end {
                let step = &mut step[..STEP.min(end - *given)];
                let bytes = step.len().min(state.len - *given);
                file.read_exact_at(&mut step[..bytes], *given as u64)?;
                step[bytes..].fill(0);
                // SAFETY: inside the mapping.
                let to = unsafe { start.add(*given) };
                // SAFETY: the memory is ours; nobody has touched these pages, and the file's bytes are those that
                // the mapping had: the lease holds until all of them are given.
                unsafe { pages.give(to, step) }?;
                *given += step.len();
            }
        }
        // Closing the descriptor takes the memory for what it is now.
        state.hold = Hold::Detached;
        state.region.lock_again();
        // A forked child gets it like all other memory.
        let _ = state
            .region
            .advise(0..state.region.len(), libc::MADV_DOFORK);
        Ok(())
    }
}

/// One step of giving pages, in bytes.
const STEP: usize = 1 << 20;

/// Puts memory without pages over a mapping, in one step.
fn move_memory_over(region: &Region) -> io::Result<Userfault> {
    let memory = Region::without_pages(region.len()).map_err(io::Error::from)?;
    memory.advise(0..memory.len(), libc::MADV_DONTFORK)?;
    let pages = Userfault::new()?;
    pages.register(memory.start(), memory.len())?;
    let over = AtomicBool::new(false);
    let replace = |is_noted: bool| {
        if !is_noted {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        // SAFETY: whoever reads the mapping meanwhile waits for its pages, and is given the same bytes.
        let moved = unsafe { region.replace_unlocked_by(memory) };
        over.store(true, Ordering::Relaxed);
        moved
    };
    // The move waits until somebody has taken note of it.
    let note = || pages.note_moves(&over);
    thread::beside(c"stillmap-note", note, replace).0?;
    Ok(pages)
}

impl Holder for Slot {
    fn is_broken(&self) -> bool {
        self.file().is_some_and(|file| !is_held(&file))
    }

    fn is_due(&self, deadline: &Deadline) -> bool {
        deadline.has_passed(3, 4)
    }

    fn answer(&self, _: &Deadline) -> Answer {
        if self.over.load(Ordering::Acquire) {
            return Answer::Done;
        }
        // Never waited for: others need their answers, too.
        let Ok(mut state) = self.state.try_lock() else {
            return Answer::Later;
        };
        let (false, Some(file)) = (self.over.load(Ordering::Acquire), self.file()) else {
            return Answer::Done;
        };
        match self.detach(&mut state, &file) {
            Ok(()) => {
                drop(file);
                self.let_in();
                Answer::Done
            }
            Err(_) => Answer::Later,
        }
    }

    /// No process at all rather than one that others write under.
    fn give_up(&self) {
        let Some(file) = self.file() else { return };
        let name = file::name(file.as_fd()).unwrap_or_else(|| PathBuf::from("a file"));
        abort(&format!(
            "stillmap: aborting: {} is about to be opened by another process while it is edited, and there was no memory \
             to go on without it (see fs.lease-break-time)\n",
            name.display()
        ))
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn range(&self) -> (usize, usize) {
        let start = self.start.load(Ordering::Relaxed);
        (start, self.mapped.load(Ordering::Relaxed))
    }
}
