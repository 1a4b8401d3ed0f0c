//! Read leases: a mapping of a file that nobody changes, and its copy once somebody is about to.
//!
//! A read lease is granted only while nobody has the file open for writing. Whoever then opens it for writing, or
//! truncates it, is held by the kernel until the lease is given back; and it is given back only after the bytes have
//! been put elsewhere, under the same addresses, in one step (`mremap` over the mapping). Sources: fcntl(2), "Leases";
//! fs/locks.c.
#![allow(unsafe_code)]

use super::keeper::{Answer, Deadline, Holder, Keeper, Place};
use crate::error::Result;
use crate::region::Region;
use crate::replica::{self, Backing, clone_of, copy_to_disk};
use crate::source::Source;
use crate::sys::file::{self, Stat};
use crate::sys::lease::{self, Lease};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A read lease that nothing is mapped under yet. Dropping it lets writers in.
pub(crate) struct ReadLease {
    file: Arc<OwnedFd>,
    stat: Stat,
    file_system: i64,
    keeper: &'static Keeper,
}

impl ReadLease {
    /// Takes one, or `None`: on a file system where a lease proves nothing, for a file that somebody has open for
    /// writing, for one of another owner (without CAP_LEASE).
    pub(crate) fn take(source: &Source<'_>, file_system: i64) -> Result<Option<Self>> {
        if !lease::is_trusted(file_system) {
            return Ok(None);
        }
        let Some(keeper) = Keeper::get() else {
            return Ok(None);
        };
        let Ok(file) = source.own_description() else {
            return Ok(None);
        };
        if keeper.take(file.as_fd(), Lease::Read).is_err() {
            return Ok(None);
        }
        let stat = source.stat()?;
        // The kernel does not count the descriptor that memfd_create(2) gave as one open for writing, so a lease on a
        // memfd is granted while somebody can write to it. It looks like a file of a tmpfs that has no name.
        if file_system == libc::TMPFS_MAGIC && stat.links == 0 {
            return Ok(None);
        }
        Ok(Some(ReadLease {
            file,
            stat,
            file_system,
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
        let (region, delta) = Region::file(self.file.as_fd(), offset, len)?;
        // A forked child could not keep the promise: the lease is answered for in this process only.
        region.advise(0..region.len(), libc::MADV_DONTFORK)?;
        let slot = Arc::new(Slot {
            start: region.start(),
            len: region.len(),
            offset: offset - delta as u64,
            stat: self.stat,
            file_system: self.file_system,
            memory_limit,
            keeper: self.keeper,
            file: self.file,
            state: Mutex::new(State {
                region,
                backing: Backing::Leased,
            }),
            dropped: AtomicBool::new(false),
            torn: AtomicBool::new(false),
            place: Place::default(),
        });
        let guarded = Guarded(Arc::clone(&slot));
        Ok(self.keeper.watch(slot).then_some((guarded, delta)))
    }
}

/// A mapping whose bytes do not change, whoever writes to the file.
pub(crate) struct Guarded(Arc<Slot>);

impl Guarded {
    /// Where the mapping starts, and stays.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.0.start
    }

    /// What keeps the bytes now.
    pub(crate) fn backing(&self) -> Backing {
        self.0.state().backing
    }

    /// False if the lease was taken away by force, and the file touched.
    pub(crate) fn is_intact(&self) -> bool {
        !self.0.torn.load(Ordering::Acquire)
    }

    /// Faults everything in.
    pub(crate) fn populate(&self) -> io::Result<()> {
        self.0.state().region.populate()
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
    /// Its magic number.
    file_system: i64,
    memory_limit: Option<u64>,
    keeper: &'static Keeper,
    file: Arc<OwnedFd>,
    /// Locked by the keeper as long as it copies.
    state: Mutex<State>,
    /// Tells the keeper to stop copying.
    dropped: AtomicBool,
    torn: AtomicBool,
    place: Place,
}

struct State {
    region: Region,
    backing: Backing,
}

// SAFETY: `start` is an address, and what is there is shared by `&[u8]` only.
unsafe impl Send for Slot {}
// SAFETY: as above; all that changes is behind atomics and a lock.
unsafe impl Sync for Slot {}

impl Slot {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while copying leaves the mapping as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Unmaps and lets writers in.
    fn end(&self) {
        self.dropped.store(true, Ordering::Release);
        if !self.keeper.is_of_this_process() {
            return self.end_in_child();
        }
        self.keeper.forget(self);
        let mut state = self.state();
        state.region = Region::empty();
        if state.backing == Backing::Leased {
            // Said, not left to the closing of the descriptor: a forked child may have it open still.
            lease::release(self.file.as_fd());
        }
    }

    /// What a forked process inherited: the descriptor, which closes by itself, and not the lease, which is its
    /// parent's. The mapping is not there unless it was copied before the fork, and something else may be.
    fn end_in_child(&self) {
        // The keeper may have held the lock at the fork; then what it was copying is not known here, and is left.
        if let Ok(mut state) = self.state.try_lock() {
            let region = std::mem::replace(&mut state.region, Region::empty());
            match state.backing {
                Backing::Leased => std::mem::forget(region),
                _ => drop(region),
            }
        }
    }

    /// Puts the bytes elsewhere, under the same addresses. What the file had is what `pread` gives as long as the lease
    /// holds.
    fn freeze(&self, state: &mut State, deadline: &Deadline) -> io::Result<()> {
        let (copy, backing) = self.replica(deadline)?;
        // SAFETY: the file has not changed since the lease was granted, so readers find the same bytes in its copy; a
        // lease that was lost in between is told by `is_intact`.
        unsafe { state.region.replace_by(copy) }?;
        state.backing = backing;
        Ok(())
    }

    /// The bytes of the mapping in a clone, in memory, or in an unnamed file: the first that can be had.
    fn replica(&self, deadline: &Deadline) -> io::Result<(Region, Backing)> {
        let len = self.len;
        if let Some(clone) = clone_of(self.file.as_fd(), self.file_system) {
            if let Ok((region, _)) = Region::file(clone.as_fd(), self.offset, len) {
                return Ok((region, Backing::Cloned));
            }
        }
        let limit = self
            .memory_limit
            .unwrap_or_else(replica::default_memory_limit);
        if len as u64 <= limit {
            match self.copy_to_memory(deadline) {
                Ok(region) => return Ok((region, Backing::Memory)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
                Err(_) => {}
            }
        }
        let end = (self.offset + len as u64).min(self.stat.size);
        let mut step = |_| self.go_on(deadline);
        let (copy, _) = copy_to_disk(self.file.as_fd(), self.offset..end, &mut step)?;
        let (region, _) = Region::file(copy.as_fd(), 0, len)?;
        Ok((region, Backing::Cloned))
    }

    fn copy_to_memory(&self, deadline: &Deadline) -> io::Result<Region> {
        let mut region = Region::transparent_like(self.start, self.len)?;
        let end = (self.offset + self.len as u64).min(self.stat.size);
        let mut step = || self.go_on(deadline);
        replica::fill(&mut region, self.file.as_fd(), self.offset..end, &mut step)?;
        Ok(region)
    }

    /// Asked between the steps of a copy: an error stops it.
    fn go_on(&self, deadline: &Deadline) -> io::Result<()> {
        if self.dropped.load(Ordering::Acquire) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if deadline.is_near() {
            self.give_up();
        }
        Ok(())
    }

    fn see_if_torn(&self) {
        let now = file::stat(self.file.as_fd()).ok().map(|stat| stat.stamp);
        if now != Some(self.stat.stamp) {
            self.torn.store(true, Ordering::Release);
        }
    }

    /// The last resort: no process at all rather than one whose bytes change.
    fn give_up(&self) -> ! {
        let name = file::name(self.file.as_fd()).unwrap_or_else(|| PathBuf::from("a file"));
        lease::abort(&format!(
            "folio: aborting: {} is about to be changed by another process while its bytes are in use, and they could \
             not be copied in time, to memory or to disk (see fs.lease-break-time)\n",
            name.display()
        ))
    }
}

impl Holder for Slot {
    fn is_broken(&self) -> bool {
        !lease::is_held(self.file.as_fd(), Lease::Read)
    }

    fn answer(&self, deadline: &Deadline) -> Answer {
        let mut state = self.state();
        if self.dropped.load(Ordering::Acquire) || state.backing != Backing::Leased {
            return Answer::Done;
        }
        let frozen = self.freeze(&mut state, deadline);
        match frozen {
            Ok(()) if lease::release(self.file.as_fd()) => Answer::Done,
            // Taken away by force: then the stamp tells whether the file was touched meanwhile.
            Ok(()) => {
                self.see_if_torn();
                Answer::Done
            }
            Err(_) if self.dropped.load(Ordering::Acquire) => Answer::Done,
            Err(_) if deadline.is_near() => self.give_up(),
            Err(_) => {
                if deadline.is_over() {
                    self.see_if_torn();
                }
                Answer::Later
            }
        }
    }

    fn place(&self) -> &Place {
        &self.place
    }

    fn range(&self) -> (usize, usize) {
        (self.start.as_ptr().addr(), self.len)
    }
}
