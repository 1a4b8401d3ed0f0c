//! Write leases: a shared mapping of a file that nobody else has open, and its way out once somebody wants it.
//!
//! A write lease is granted only while nobody else has the file open, and whoever then opens it is held by the kernel
//! until the lease is given back. At three quarters of the time that the kernel grants, the mapping is made private in
//! place: the file keeps every store made until then, the mapping goes on with the same bytes, and the opener goes on
//! with the file. Sources: fcntl(2), "Leases"; fs/locks.c.
#![allow(unsafe_code)]

use super::keeper::{Answer, Deadline, Holder, Keeper, Place};
use crate::region::{Region, whole_pages};
use crate::sys::file;
use crate::sys::lease::{self, Lease};
use crate::sys::memory as mapping;
use crate::{error, page};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
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
    Failed(io::Error),
}

/// A file that nobody else has open; the mapping comes when its size is known to stay. Dropping it lets others in.
pub(crate) struct WriteLease {
    file: File,
    keeper: &'static Keeper,
}

impl WriteLease {
    /// `file` is a description of our own, open for reading and writing.
    pub(crate) fn take(file: File) -> Result<Self, Refused> {
        let system = file::file_system(file.as_fd()).map_err(Refused::Failed)?;
        if system == libc::BTRFS_SUPER_MAGIC {
            // Every store would need new space; a disk that has none would answer with a signal.
            return Err(Refused::Never(
                "btrfs writes every page to a new place, and could not tell of a full disk",
            ));
        }
        if !lease::is_trusted(system) {
            return Err(Refused::Never("its file system has no leases to rely on"));
        }
        if !mapping::knows_advice(libc::MADV_POPULATE_WRITE) {
            return Err(Refused::Never("the kernel is older than Linux 5.14"));
        }
        let keeper = Keeper::get().ok_or(Refused::Never("no thread can watch over it"))?;
        if let Err(e) = keeper.take(file.as_fd(), Lease::Write) {
            return Err(match e.raw_os_error() {
                Some(libc::EAGAIN) => Refused::Busy,
                Some(libc::EACCES) => Refused::Never("it belongs to another user"),
                Some(libc::EINVAL) => Refused::Never("leases are off (see fs.leases-enable)"),
                _ => Refused::Failed(e),
            });
        }
        let stat = file::stat(file.as_fd()).map_err(Refused::Failed)?;
        if system == libc::TMPFS_MAGIC && stat.links == 0 {
            // The kernel does not count the descriptor that memfd_create(2) gave as an open one.
            return Err(Refused::Never("it may be a memfd, and others may have it"));
        }
        Ok(WriteLease { file, keeper })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Maps the first `len` bytes, which have blocks on the disk.
    pub(crate) fn map(self, len: usize) -> Result<Editable, Refused> {
        let region = map(&self.file, len).map_err(|e| Refused::Failed(e.into()))?;
        let slot = Arc::new(Slot {
            start: AtomicUsize::new(region.start().as_ptr().addr()),
            mapped: AtomicUsize::new(region.len()),
            file: self.file,
            keeper: self.keeper,
            state: Mutex::new(State {
                region,
                len,
                hold: Hold::Leased,
            }),
            over: AtomicBool::new(false),
            place: Place::default(),
        });
        let editable = Editable(slot);
        let holder = Arc::clone(&editable.0);
        match editable.0.keeper.watch(holder) {
            true => Ok(editable),
            false => Err(Refused::Busy),
        }
    }
}

/// At least one page, though it may be behind the end of the file: what is mapped can grow.
fn map(file: &File, len: usize) -> error::Result<Region> {
    let pages = whole_pages(len.max(1), page::size())?;
    let anywhere = mapping::Place::Anywhere;
    let region = Region::shared(file.as_fd(), pages, anywhere, mapping::Pages::Zeroed)?;
    // A forked child could not keep the promise: the lease is answered for in this process only.
    let apart = region.advise(0..region.len(), libc::MADV_DONTFORK);
    apart.map_err(|e| error::Error::os("madvise", None, e))?;
    Ok(region)
}

/// A shared mapping of a file that nobody else has open, for as long as [`Editable::is_leased`]; after that a private
/// one, and nobody else sees what is stored.
pub(crate) struct Editable(Arc<Slot>);

impl Editable {
    /// Where the mapping starts, until it is resized.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.0.state().region.start()
    }

    pub(crate) fn file(&self) -> &File {
        &self.0.file
    }

    /// True if somebody waits for the file, or got it already.
    pub(crate) fn is_wanted(&self) -> bool {
        !lease::is_held(self.0.file.as_fd(), Lease::Write)
    }

    /// True as long as stores go to the file.
    pub(crate) fn is_leased(&self) -> bool {
        self.0.state().hold == Hold::Leased
    }

    /// Changes the length of the mapping, after `size` has changed that of the file; `None` if the lease is gone.
    pub(crate) fn resize(
        &mut self,
        len: usize,
        size: impl FnOnce(&File) -> error::Result<()>,
    ) -> Option<error::Result<()>> {
        let mut state = self.0.state();
        match state.hold {
            Hold::Leased => Some(self.0.resize(&mut state, len, size)),
            Hold::Private | Hold::Detached => None,
        }
    }

    /// Lets others in. False if they were let in before.
    pub(crate) fn end(self) -> bool {
        self.0.end()
    }
}

impl Drop for Editable {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A lease and the mapping under it, shared with the keeper.
struct Slot {
    /// Where the mapping is, and how many bytes are mapped.
    start: AtomicUsize,
    mapped: AtomicUsize,
    file: File,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Leased,
    /// The mapping is private, but shows pages of the file; the lease is held still.
    Private,
    /// The mapping is memory.
    Detached,
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
        size: impl FnOnce(&File) -> error::Result<()>,
    ) -> error::Result<()> {
        whole_pages(len.max(1), page::size())?;
        let old = state.len;
        size(&self.file)?;
        let resized = state.region.resize(len.max(1), page::size());
        let region = &state.region;
        self.start
            .store(region.start().as_ptr().addr(), Ordering::Relaxed);
        self.mapped.store(region.len(), Ordering::Relaxed);
        match resized {
            Err(error) if len > old => {
                let _ = self.file.set_len(old as u64);
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
                    Hold::Leased => std::mem::forget(region),
                    Hold::Private | Hold::Detached => drop(region),
                }
            }
            return false;
        }
        self.keeper.forget(self);
        let mut state = self.state();
        state.region = Region::empty();
        match state.hold {
            Hold::Detached => false,
            // Said, not left to the closing of the descriptor: a forked child may have it open still.
            Hold::Leased => lease::release(self.file.as_fd()),
            Hold::Private => {
                lease::release(self.file.as_fd());
                false
            }
        }
    }

    /// Makes the mapping memory, while others store to it.
    fn detach(&self, state: &mut State) -> io::Result<()> {
        if state.hold == Hold::Leased {
            // SAFETY:
            // - The region is a shared mapping of the front of this file.
            // - The lease keeps others from the file until `release`, which comes after the pages were stored to.
            unsafe { state.region.make_private(self.file.as_fd()) }?;
            state.hold = Hold::Private;
        }
        let pages = self.pages(state);
        if !pages.is_empty() {
            state.region.advise(pages, libc::MADV_POPULATE_WRITE)?;
        }
        state.hold = Hold::Detached;
        Ok(())
    }

    /// The pages that hold bytes of the file.
    fn pages(&self, state: &State) -> Range<usize> {
        0..page::round_up(state.len).map_or(state.region.len(), |end| end.min(state.region.len()))
    }

    /// The last resort: no process at all rather than one that others write under.
    fn give_up(&self) -> ! {
        let name = file::name(self.file.as_fd()).unwrap_or_else(|| PathBuf::from("a file"));
        lease::abort(&format!(
            "folio: aborting: {} is about to be opened by another process while it is edited, and there is no memory \
             to go on without it (see fs.lease-break-time)\n",
            name.display()
        ))
    }
}

impl Holder for Slot {
    fn is_broken(&self) -> bool {
        !self.over.load(Ordering::Acquire) && !lease::is_held(self.file.as_fd(), Lease::Write)
    }

    fn answer(&self, deadline: &Deadline) -> Answer {
        if self.over.load(Ordering::Acquire) {
            return Answer::Done;
        }
        if !deadline.has_passed(3, 4) {
            return Answer::Later;
        }
        // Never waited for: others need their answers, too.
        let Ok(mut state) = self.state.try_lock() else {
            return Answer::Later;
        };
        if self.over.load(Ordering::Acquire) || state.hold == Hold::Detached {
            return Answer::Done;
        }
        match self.detach(&mut state) {
            Ok(()) => {
                lease::release(self.file.as_fd());
                Answer::Done
            }
            Err(_) if deadline.is_near() => self.give_up(),
            Err(_) => Answer::Later,
        }
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn range(&self) -> (usize, usize) {
        let start = self.start.load(Ordering::Relaxed);
        (start, self.mapped.load(Ordering::Relaxed))
    }
}
