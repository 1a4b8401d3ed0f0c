//! The leases of this process, in entries that the threads of the monitor and the fork handler can look at without a
//! lock.
//!
//! ```text
//!              publish            CAS, owner
//!   PREPARING ---------> LIVE <----------------> BUSY        the owner changes the mapping (Exclusive)
//!      ^                 ^  |
//!      |  not handled    |  | CAS, copier: the lease is broken
//!      |                 |  v
//!      |                WORKING ----> SWAPPED ----> DONE     bytes are in memory or on disk; then the lease is released
//!      |                  |                          |
//!      +------- end ------+-- (from LIVE or DONE; the owner waits while WORKING or SWAPPED)
//! ```
//! The users of `data`: the owner in PREPARING and BUSY, the copier in WORKING and SWAPPED, the fork handler (no other
//! thread exists in the child). Everything else is atomic. A thread that looks at an entry may see an older lease than
//! the one that is in it now; so the copier asks the kernel again before it acts.
#![allow(unsafe_code)]

use super::deadline::Deadline;
use super::time::AtomicMs;
use crate::backing::Backing;
use crate::file_system::FileSystem;
use crate::locked_pages::LockedPages;
use crate::region::Region;
use crate::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use crate::sys::file::Stat;
use crate::sys::futex;
use crate::sys::lease::{self, Lease};
use crate::table::Table;
use std::cell::UnsafeCell;
use std::os::fd::RawFd;
use std::panic::RefUnwindSafe;
use std::ptr::NonNull;
use std::sync::atomic::compiler_fence;

pub(super) static TABLE: Table<LeaseEntry> = Table::new();

/// No mapping is published: the lease is being set, or was given up.
pub(super) const PREPARING: u32 = 0;
pub(super) const LIVE: u32 = 1;
pub(super) const BUSY: u32 = 2;
pub(super) const WORKING: u32 = 3;
/// The mapping is no longer one of the file, which the lease still protects.
pub(super) const SWAPPED: u32 = 4;
pub(super) const DONE: u32 = 5;

const NOT_RELEASED: u32 = 0;
/// A thread waits until the copier has copied the bytes and released the lease.
const RELEASE_ASKED: u32 = 1;
/// The lease was released, and no process had broken it.
const RELEASED: u32 = 2;

/// One lease and the mapping under it. It lies in one page: fork(2) copies page by page while other threads store.
#[repr(align(512))]
pub(super) struct LeaseEntry {
    state: AtomicU32,
    /// The descriptor with the lease, or -1. The number stays open until the owner has ended the entry.
    pub(super) fd: AtomicI32,
    /// The number of the descriptor when the lease was set, which the kernel reports.
    pub(super) signal_fd: AtomicI32,
    is_write: AtomicBool,
    /// When the lease was about to be set (monotonic, in ms).
    pub(super) set_at: AtomicMs,
    /// When the lease was seen to be broken; 0 if it was not.
    pub(super) broken_at: AtomicMs,
    /// The time that the kernel waits from then on, in ms. Stored before `broken_at`.
    pub(super) break_time: AtomicMs,
    /// Whether the process gives the lease up without a break: NOT_RELEASED and so on.
    release: AtomicU32,
    /// The owner waits for the entry: its break need not be handled.
    pub(super) is_dropped: AtomicBool,
    /// The backing once SWAPPED: 0, or a number of [`LeaseEntry::set_backing`].
    backing: AtomicU8,
    /// The bytes may differ from those that the file had.
    pub(super) is_inconsistent: AtomicBool,
    /// The copy was found to be what was leased, before the lease was released.
    pub(super) is_copy_consistent: AtomicBool,
    /// Of a write lease: memory has taken the place of the mapping, or is about to. Stores may not be in the file.
    pub(super) is_moved: AtomicBool,
    /// How many bytes are copied when the lease is broken.
    copy_len: AtomicUsize,
    data: UnsafeCell<Data>,
}

// SAFETY: all fields but `data` are atomic; `data` is used by one thread at a time, see above.
unsafe impl Sync for LeaseEntry {}
// SAFETY: as above.
unsafe impl Send for LeaseEntry {}
/// No code of the program runs while an entry is changed, so no panic leaves one half changed.
impl RefUnwindSafe for LeaseEntry {}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Data {
    /// The mapping: whole pages.
    pub(super) start: usize,
    pub(super) len: usize,
    /// The locked pages of the region, which the owner keeps.
    pub(super) locked: Option<NonNull<LockedPages>>,
    pub(super) kind: LeaseData,
}

impl Data {
    pub(super) fn new(region: &Region, kind: LeaseData) -> Self {
        Data {
            start: region.addresses().start,
            len: region.len(),
            locked: region.locked_pages().map(NonNull::from),
            kind,
        }
    }

    /// Replaces the data. A child that is forked meanwhile finds a mapping of length 0, and not parts of two.
    pub(super) fn set(&mut self, new: Data) {
        *self = Data { len: 0, ..new };
        compiler_fence(Ordering::SeqCst);
        self.len = new.len;
    }

    /// A child that is forked from here on finds a mapping of length 0.
    pub(super) fn hide(&mut self) {
        self.len = 0;
        compiler_fence(Ordering::SeqCst);
    }

    /// The file when the lease was set.
    pub(super) fn stat(&self) -> Option<Stat> {
        match self.kind {
            LeaseData::Read(read) => Some(read.stat),
            LeaseData::Write(write) => Some(write.stat),
            LeaseData::None => None,
        }
    }

    /// How many bytes are copied when the lease is broken: whole pages. Addresses that are only reserved are not.
    pub(super) fn copy_len(&self) -> usize {
        match self.kind {
            LeaseData::Write(write) => write.copy_len,
            LeaseData::Read(_) | LeaseData::None => self.len,
        }
    }

    /// Locks the new pages where the replaced ones were locked.
    pub(super) fn relock(&self) {
        if let Some(locked) = self.locked {
            // SAFETY: the owner of the entry keeps the region until the entry is ended or changed.
            unsafe { locked.as_ref() }.relock();
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) enum LeaseData {
    #[default]
    None,
    Read(ReadData),
    Write(WriteData),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ReadData {
    /// Offset of the mapping in the file.
    pub(super) offset: u64,
    /// The file when the lease was set.
    pub(super) stat: Stat,
    pub(super) system: FileSystem,
    pub(super) memory_limit: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct WriteData {
    /// Offset of the mapping in the file.
    pub(super) offset: u64,
    /// Bytes from the start of the mapping to the last one that is in use.
    pub(super) used: usize,
    /// The file when it was mapped.
    pub(super) stat: Stat,
    /// `used` in whole pages, one at least.
    pub(super) copy_len: usize,
    /// The userfaultfd for the memory that takes the place of the mapping.
    pub(super) userfaultfd: RawFd,
    /// Bytes that were copied to the memory that has taken the place of the mapping; the pages after them are missing.
    pub(super) supplied: usize,
}

/// True if two leases have the number: the program closed it, and it was reused, or a thread has a descriptor table of its
/// own (unshare(2), `CLONE_FILES`). Then it refers to one of the two files at most.
pub(super) fn is_ambiguous(fd: RawFd) -> bool {
    let has_number = |entry: &&LeaseEntry| entry.fd.load(Ordering::Acquire) == fd;
    let leased = TABLE.iter().filter(|entry| entry.needs_lease());
    leased.filter(has_number).nth(1).is_some()
}

impl Default for LeaseEntry {
    fn default() -> Self {
        LeaseEntry {
            state: AtomicU32::new(PREPARING),
            fd: AtomicI32::new(-1),
            signal_fd: AtomicI32::new(-1),
            is_write: AtomicBool::new(false),
            set_at: AtomicMs::new(0),
            broken_at: AtomicMs::new(0),
            break_time: AtomicMs::new(0),
            release: AtomicU32::new(NOT_RELEASED),
            is_dropped: AtomicBool::new(false),
            backing: AtomicU8::new(0),
            is_inconsistent: AtomicBool::new(false),
            is_copy_consistent: AtomicBool::new(false),
            is_moved: AtomicBool::new(false),
            copy_len: AtomicUsize::new(0),
            data: UnsafeCell::new(Data::default()),
        }
    }
}

impl LeaseEntry {
    /// For a descriptor on which a lease is about to be set, at `now`.
    pub(super) fn prepare(&self, fd: RawFd, lease: Lease, now: u64) {
        self.set_at.store(now, Ordering::Relaxed);
        self.broken_at.store(0, Ordering::Relaxed);
        // A thread may wait still for the release of the lease that the entry had before.
        if self.release.load(Ordering::SeqCst) != NOT_RELEASED {
            self.end_release(false);
        }
        self.is_dropped.store(false, Ordering::Relaxed);
        self.backing.store(0, Ordering::Relaxed);
        self.is_inconsistent.store(false, Ordering::Relaxed);
        self.is_copy_consistent.store(false, Ordering::Relaxed);
        self.is_moved.store(false, Ordering::Relaxed);
        self.is_write
            .store(lease == Lease::Write, Ordering::Relaxed);
        self.signal_fd.store(fd, Ordering::Relaxed);
        self.fd.store(fd, Ordering::Release);
    }

    /// From here on the monitor looks after the lease.
    ///
    /// # Safety
    /// The caller has prepared the entry. `data` is a mapping under the lease that the caller owns until
    /// [`LeaseEntry::end`].
    pub(super) unsafe fn publish(&self, data: Data) {
        self.copy_len.store(data.copy_len(), Ordering::Relaxed);
        // SAFETY: in PREPARING only the owner uses it.
        unsafe { *self.data.get() = data };
        self.state.store(LIVE, Ordering::SeqCst);
    }

    /// The descriptor is closed, or about to be.
    pub(super) fn forget_descriptor(&self) {
        self.fd.store(-1, Ordering::Release);
    }

    pub(super) fn state(&self) -> u32 {
        self.state.load(Ordering::SeqCst)
    }

    pub(super) fn lease(&self) -> Lease {
        if self.is_write.load(Ordering::Relaxed) {
            Lease::Write
        } else {
            Lease::Read
        }
    }

    /// True while the kernel may end the lease under the mapping.
    pub(super) fn needs_lease(&self) -> bool {
        matches!(self.state(), LIVE | BUSY | WORKING)
    }

    /// True as long as every store that was made is in the file. Waits while memory takes the place of the mapping.
    pub(super) fn is_stored(&self) -> bool {
        loop {
            if !self.needs_lease() {
                return false;
            }
            // SeqCst: the copier sets it before it moves the memory.
            if !self.is_moved.load(Ordering::SeqCst) {
                return true;
            }
            match self.state() {
                WORKING => futex::wait(&self.state, WORKING),
                // The copier could not finish, or has not begun.
                LIVE | BUSY => return !self.is_moved.load(Ordering::SeqCst),
                _ => return false,
            }
        }
    }

    /// `None` if the lease was not seen to be broken.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let broken_at = self.broken_at.load(Ordering::Acquire);
        let break_time = self.break_time.load(Ordering::Relaxed);
        (broken_at != 0).then_some(Deadline {
            broken_at,
            break_time,
        })
    }

    /// How many bytes are copied when the lease is broken.
    pub(super) fn copy_len(&self) -> usize {
        self.copy_len.load(Ordering::Relaxed)
    }

    /// Whether the kernel still blocks other processes.
    pub(super) fn is_held(&self) -> bool {
        lease::is_held(self.fd.load(Ordering::Acquire), self.lease())
    }

    /// Asks the copier to release the lease; the caller wakes it.
    pub(super) fn ask_release(&self) {
        let order = (Ordering::SeqCst, Ordering::SeqCst);
        let _ = self
            .release
            .compare_exchange(NOT_RELEASED, RELEASE_ASKED, order.0, order.1);
    }

    fn is_release_asked(&self) -> bool {
        self.release.load(Ordering::SeqCst) == RELEASE_ASKED
    }

    /// Called by the copier. If the break is due, or if a thread asks for the release (the argument of `handle`), `handle`
    /// copies the bytes and releases the lease.
    pub(super) fn serve(&self, is_due: bool, handle: impl FnOnce(bool)) {
        let is_broken = self.broken_at.load(Ordering::Acquire) != 0;
        let is_asked = self.is_release_asked();
        if (is_due || is_asked) && self.change(LIVE, WORKING) {
            handle(is_asked);
        }
        if is_asked {
            self.end_release(self.state() == DONE && !is_broken);
        }
    }

    /// To be called when the lease was released, or is no longer to be.
    pub(super) fn end_release(&self, is_released: bool) {
        let outcome = if is_released { RELEASED } else { NOT_RELEASED };
        self.release.store(outcome, Ordering::SeqCst);
        futex::wake_all(&self.release);
    }

    pub(super) fn await_release(&self) {
        while self.is_release_asked() {
            futex::wait(&self.release, RELEASE_ASKED);
        }
    }

    /// True if the process has released the lease itself.
    pub(super) fn was_released(&self) -> bool {
        self.release.load(Ordering::SeqCst) == RELEASED
    }

    /// Sets the state and wakes the threads that wait for it.
    pub(super) fn set(&self, state: u32) {
        self.state.store(state, Ordering::SeqCst);
        futex::wake_all(&self.state);
    }

    fn change(&self, from: u32, to: u32) -> bool {
        let order = (Ordering::SeqCst, Ordering::SeqCst);
        let changed = self.state.compare_exchange(from, to, order.0, order.1);
        changed.is_ok()
    }

    /// # Safety
    /// The caller may use it in the present state, see above, and holds no second reference.
    #[allow(clippy::mut_from_ref, reason = "the state makes it exclusive")]
    pub(super) unsafe fn data(&self) -> &mut Data {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.data.get() }
    }

    /// Runs `change` for the owner, while the copier does not use the entry; `None` once the lease was released.
    pub(super) fn while_leased<T>(&self, change: impl FnOnce(&mut Data) -> T) -> Option<T> {
        while !self.change(LIVE, BUSY) {
            match self.state() {
                state @ (WORKING | SWAPPED | BUSY) => futex::wait(&self.state, state),
                LIVE => {}
                _ => return None,
            }
        }
        // SAFETY: in BUSY only the owner uses it.
        let data = unsafe { self.data() };
        let changed = change(&mut *data);
        self.copy_len.store(data.copy_len(), Ordering::Relaxed);
        self.set(LIVE);
        Some(changed)
    }

    /// Waits while the mapping is being replaced, and takes the entry back from the monitor. True if the lease was not
    /// released before.
    pub(super) fn end(&self) -> bool {
        self.is_dropped.store(true, Ordering::SeqCst);
        loop {
            match self.state() {
                state @ (WORKING | SWAPPED) => futex::wait(&self.state, state),
                PREPARING => return false,
                state => {
                    if self.change(state, PREPARING) {
                        return state != DONE;
                    }
                }
            }
        }
    }

    /// The backing. Blocks between the swap and the release, so that a caller that sees the writer sees the new backing.
    pub(super) fn backing(&self) -> Backing {
        self.wait_for_swap_in_progress();
        match self.backing.load(Ordering::Acquire) {
            1 => Backing::Memory,
            2 => Backing::Cloned,
            3 => Backing::Disk,
            _ => Backing::Leased,
        }
    }

    pub(super) fn set_backing(&self, backing: Backing) {
        let number = match backing {
            Backing::Memory => 1,
            Backing::Cloned => 2,
            Backing::Disk => 3,
            _ => 0,
        };
        self.backing.store(number, Ordering::Release);
    }

    pub(super) fn wait_for_swap_in_progress(&self) {
        while self.state() == SWAPPED {
            futex::wait(&self.state, SWAPPED);
        }
    }
}
