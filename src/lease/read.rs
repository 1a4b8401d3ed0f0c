//! Read leases: a mapping of a file that nobody changes, and its copy once somebody is about to.
//!
//! A read lease is granted only while nobody has the file open for writing. Whoever then opens it for writing, or
//! truncates it, is held by the kernel until the lease is given back; and it is given back only after the bytes have
//! been put elsewhere, under the same addresses, in one step (`mremap` over the mapping). Sources: fcntl(2), "Leases";
//! fs/locks.c.
#![allow(unsafe_code)]

use super::monitor::{Answer, Deadline, Holder, Keeper, Place};
use crate::backing::Backing;
use crate::error::Result;
use crate::file_system::FileSystem;
use crate::input::{Source, clone_of, copy_to_disk};
use crate::locked_pages::LockedPages;
use crate::reason::Reason;
use crate::region::Region;
use crate::sys::file::{self, Stat};
use crate::sys::lease::{self, Lease, Released};
use crate::sys::process::abort;
use crate::{budget, buffer};
use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A file of so many bytes is copied into memory even where it could be cloned: that waits for nothing but memory.
const QUICK: u64 = 4 << 20;

/// How much is faulted in under the lock, in bytes.
const POPULATE_STEP: usize = 2 << 20;

/// A read lease that nothing is mapped under yet.
pub(crate) struct ReadLease {
    taken: Taken,
    stat: Stat,
    system: FileSystem,
    keeper: &'static Keeper,
}

/// A descriptor with a lease on it, which is given back on drop.
struct Taken(Option<Arc<OwnedFd>>);

impl Taken {
    /// The lease is somebody else's to give back.
    fn keep(mut self) -> Option<Arc<OwnedFd>> {
        self.0.take()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Said: the caller may have the descriptor open still.
        if let Some(file) = &self.0 {
            lease::release(file.as_fd());
        }
    }
}

impl ReadLease {
    /// Takes one, or says why there is none: on a file system where a lease proves nothing, for a file that somebody has
    /// open for writing, for one of another owner (without CAP_LEASE).
    pub(crate) fn acquire(
        source: &Source<'_>,
        system: FileSystem,
    ) -> Result<std::result::Result<Self, Reason>> {
        if !system.keeps_leases() {
            return Ok(Err(Reason::FileSystem));
        }
        let Some(keeper) = Keeper::get() else {
            return Ok(Err(Reason::Threads));
        };
        let Ok(file) = source.own_description() else {
            return Ok(Err(Reason::NotReopened));
        };
        if let Err(error) = keeper.take(file.as_fd(), Lease::Read) {
            return Ok(Err(refusal(&error)));
        }
        let stat = file::stat(file.as_fd());
        let taken = Taken(Some(file));
        Ok(Ok(ReadLease {
            stat: stat.map_err(|e| source.error("fstat", e))?,
            taken,
            system,
            keeper,
        }))
    }

    /// The file, as it is as long as the lease holds.
    pub(crate) fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Maps `offset..offset+len` under the lease; second, where in the mapping `offset` is. `None` if a writer came
    /// meanwhile.
    pub(crate) fn map(
        self,
        offset: u64,
        len: usize,
        memory_limit: Option<u64>,
    ) -> io::Result<Option<(Guarded, usize)>> {
        let Some(file) = &self.taken.0 else {
            return Ok(None);
        };
        let (region, delta) = Region::file(file.as_fd(), offset, len)?;
        // A forked child could not keep the promise: the lease is answered for in this process only.
        region.advise(0..region.len(), libc::MADV_DONTFORK)?;
        let slot = Arc::new(Slot {
            start: region.start(),
            len: region.len(),
            offset: offset - delta as u64,
            stat: self.stat,
            system: self.system,
            memory_limit,
            keeper: self.keeper,
            file: Mutex::new(self.taken.keep()),
            locked: region.shared_locked_pages(),
            region: Mutex::new(region),
            swapped: AtomicBool::new(false),
            frozen: OnceLock::new(),
            dropped: AtomicBool::new(false),
            torn: AtomicBool::new(false),
            place: Place::default(),
        });
        let guarded = Guarded(Arc::clone(&slot));
        Ok(self.keeper.watch(slot).then_some((guarded, delta)))
    }
}

/// Why the kernel refused a read lease, fcntl(2).
fn refusal(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(libc::EACCES) => Reason::OtherOwner,
        Some(libc::EAGAIN) => Reason::OpenForWriting,
        Some(libc::EINVAL) if lease::are_off() => Reason::LeasesOff,
        Some(libc::EINVAL) => Reason::FileSystem,
        Some(libc::EMFILE | libc::ENFILE) => Reason::Descriptors,
        _ => Reason::Refused,
    }
}

/// A mapping whose bytes do not change, whoever writes to the file.
pub(crate) struct Guarded(Arc<Slot>);

impl Guarded {
    /// Where the mapping starts, and stays.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.0.start
    }

    /// Which pages of the mapping are locked.
    pub(crate) fn locked_pages(&self) -> Option<&LockedPages> {
        self.0.locked.as_deref()
    }

    /// What keeps the bytes now.
    pub(crate) fn backing(&self) -> Backing {
        self.0.settle();
        *self.0.frozen.get().unwrap_or(&Backing::Leased)
    }

    /// False if the bytes are not those that the file had.
    pub(crate) fn is_intact(&self) -> bool {
        self.0.settle();
        !self.0.is_cut() && !self.0.torn.load(Ordering::Acquire)
    }

    /// Faults everything in.
    pub(crate) fn populate(&self) -> io::Result<()> {
        // In steps, so that a break is not kept waiting; what is copied is there anyway.
        let mut done = 0;
        while done < self.0.len && !self.0.is_broken() {
            let end = self.0.len.min(done + POPULATE_STEP);
            lock(&self.0.region).populate(done..end)?;
            done = end;
        }
        Ok(())
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guarded").field(&self.backing()).finish()
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A lease and the mapping under it, shared with the keeper.
struct Slot {
    start: NonNull<u8>,
    /// Bytes mapped.
    len: usize,
    /// Where in the file the mapping starts, in bytes.
    offset: u64,
    /// The file when the lease was granted.
    stat: Stat,
    system: FileSystem,
    memory_limit: Option<u64>,
    keeper: &'static Keeper,
    /// What the lease belongs to; `None` once it was given back. Locked for a moment only.
    file: Mutex<Option<Arc<OwnedFd>>>,
    /// Locked by the keeper as long as it copies.
    region: Mutex<Region>,
    /// Those of the region, which is locked while the pages are replaced.
    locked: Option<Arc<LockedPages>>,
    /// The mapping is no longer one of the file. True before the first writer is let in.
    swapped: AtomicBool,
    /// What keeps the bytes since the lease was given back; not said before it is known whether they are intact.
    frozen: OnceLock<Backing>,
    /// Tells the keeper to stop copying.
    dropped: AtomicBool,
    /// The bytes are not, or may not be, those that the file had.
    torn: AtomicBool,
    place: Place,
}

// SAFETY: `start` is an address, and what is there is shared by `&[u8]` only.
unsafe impl Send for Slot {}
// SAFETY: as above; all that changes is behind atomics and locks.
unsafe impl Sync for Slot {}

/// A panic while copying leaves all as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Slot {
    fn file(&self) -> Option<Arc<OwnedFd>> {
        lock(&self.file).clone()
    }

    /// Waits for the moment between the swap and the word on it, so that whoever knows of a writer that was let in finds
    /// the answer given.
    fn settle(&self) {
        let swapped = self.swapped.load(Ordering::Acquire);
        // In a forked child the lock is as it was at the fork.
        if swapped && self.frozen.get().is_none() && self.keeper.is_of_this_process() {
            drop(lock(&self.region));
        }
    }

    /// True if the file is shorter or longer than it was, under a lease that nobody broke: `open(O_RDONLY|O_TRUNC)` does
    /// that.
    fn is_cut(&self) -> bool {
        let size = |file: Arc<OwnedFd>| file::stat(file.as_fd()).ok().map(|stat| stat.size);
        // In a forked child the locks are as they were at the fork.
        let swapped = || self.swapped.load(Ordering::Acquire);
        let is_leased = || !swapped() && self.keeper.is_of_this_process();
        let cut = is_leased() && self.file().and_then(size) != Some(self.stat.size);
        // Asked again: it may have been swapped, and a writer let in, before the size was seen.
        cut && is_leased()
    }

    /// Unmaps and lets writers in.
    fn end(&self) {
        self.dropped.store(true, Ordering::Release);
        if !self.keeper.is_of_this_process() {
            return self.end_in_child();
        }
        self.keeper.forget(self);
        *lock(&self.region) = Region::empty();
        if let Some(file) = lock(&self.file).take() {
            // Said, not left to the closing of the descriptor: a forked child may have it open still.
            lease::release(file.as_fd());
        }
    }

    /// What a forked process inherited: the descriptor, and not the lease, which is its
    /// parent's. The mapping is not there unless it was copied before the fork, and something else may be.
    fn end_in_child(&self) {
        // The list that was inherited holds this value for ever.
        if let Ok(mut file) = self.file.try_lock() {
            *file = None;
        }
        // The keeper may have held the lock at the fork; then what it was copying is not known here, and is left.
        if let Ok(mut region) = self.region.try_lock() {
            let region = std::mem::replace(&mut *region, Region::empty());
            match self.swapped.load(Ordering::Acquire) {
                false => std::mem::forget(region),
                true => drop(region),
            }
        }
    }

    /// Puts the bytes elsewhere, under the same addresses. What the file had is what `pread` gives as long as the lease
    /// holds.
    fn freeze(&self, file: &OwnedFd, region: &Region) -> io::Result<Backing> {
        let (mut copy, backing) = self.make_copy(file)?;
        if file::stat(file.as_fd())?.size != self.stat.size {
            // Cut by `open(O_RDONLY|O_TRUNC)`, which breaks no lease, or after the kernel took the lease away: what is
            // gone cannot be given, and no other bytes may be given for it.
            copy = Region::lost(self.len)?;
            self.torn.store(true, Ordering::Release);
        }
        // SAFETY: the file has not changed since the lease was granted, so readers find the same bytes in its copy, or
        // none at all; a lease that was lost in between is told by `is_intact`.
        unsafe { region.replace_by(copy) }?;
        self.swapped.store(true, Ordering::Release);
        Ok(backing)
    }

    /// The bytes of the mapping in a clone, in memory, or in an unnamed file: the first that can be had.
    fn make_copy(&self, file: &OwnedFd) -> io::Result<(Region, Backing)> {
        let end = (self.offset + self.len as u64).min(self.stat.size);
        let range = self.offset..end;
        let clone = || clone_of(file.as_fd(), self.system);
        if let Some(clone) = (self.stat.size > QUICK).then(clone).flatten() {
            if let Ok((region, _)) = Region::file(clone.as_fd(), self.offset, self.len) {
                return Ok((region, Backing::Cloned));
            }
        }
        if budget::fits_memory(self.len as u64, self.memory_limit) {
            match self.copy_to_memory(file, range.clone()) {
                Ok(region) => return Ok((region, Backing::Memory)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                Err(_) => {}
            }
        }
        let mut step = |_| self.go_on();
        let (copy, _) = copy_to_disk(file.as_fd(), range, &mut step)?;
        let (region, _) = Region::file(copy.as_fd(), 0, self.len)?;
        Ok((region, Backing::Disk))
    }

    fn copy_to_memory(&self, file: &OwnedFd, range: Range<u64>) -> io::Result<Region> {
        let mut region = Region::transparent_like(self.start, self.len)?;
        buffer::read_into_region(&mut region, file.as_fd(), range, &mut |_| self.go_on())?;
        Ok(region)
    }

    /// Asked between the steps of a copy: an error stops it.
    fn go_on(&self) -> io::Result<()> {
        match self.dropped.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Lets writers in, after the bytes were put elsewhere.
    fn let_go(&self, file: &OwnedFd) {
        if lease::release(file.as_fd()) != Released::Given {
            self.see_if_torn(file);
        }
        // The last descriptor takes a lease with it that could not be given back.
        *lock(&self.file) = None;
    }

    /// For a lease that was, or may have been, taken away by force: the stamp tells whether the file was touched.
    fn see_if_torn(&self, file: &OwnedFd) {
        let now = file::stat(file.as_fd()).ok().map(|stat| stat.stamp);
        if now != Some(self.stat.stamp) {
            self.torn.store(true, Ordering::Release);
        }
    }
}

impl Holder for Slot {
    fn is_broken(&self) -> bool {
        let broken = |file: &OwnedFd| !lease::is_held(file.as_fd(), Lease::Read);
        lock(&self.file).as_deref().is_some_and(broken)
    }

    fn answer(&self, deadline: &Deadline) -> Answer {
        let region = lock(&self.region);
        let Some(file) = self.file() else {
            return Answer::Done;
        };
        if self.dropped.load(Ordering::Acquire) {
            return Answer::Done;
        }
        match self.freeze(&file, &region) {
            Ok(backing) => {
                self.let_go(&file);
                let _ = self.frozen.set(backing);
                Answer::Done
            }
            Err(_) => {
                if deadline.is_over() {
                    self.see_if_torn(&file);
                }
                Answer::Later
            }
        }
    }

    /// No process at all rather than one whose bytes change.
    fn give_up(&self) {
        if self.dropped.load(Ordering::Acquire) {
            return;
        }
        let name = self.file().and_then(|file| file::name(file.as_fd()));
        let name = name.unwrap_or_else(|| PathBuf::from("a file"));
        abort(&format!(
            "stillmap: aborting: {} is about to be changed by another process while its bytes are in use, and they could \
             not be copied in time, to memory or to disk (see fs.lease-break-time)\n",
            name.display()
        ))
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn range(&self) -> (usize, usize) {
        (self.start.as_ptr().addr(), self.len)
    }
}
