//! Read leases: a mapping of a file that no process changes.
//!
//! A read lease is granted only while no process has the file open for writing. The kernel blocks a process that then opens
//! it for writing, or truncates it, until the lease is released. The lease is released only after the bytes have been
//! copied and the copy is mapped in place of the file. Sources: fcntl(2), "Leases"; fs/locks.c.
//!
//! A lease is for a file: a snapshot of a file that is leased already shares descriptor, lease and mapping.
#![allow(unsafe_code)]

use super::copy::is_unchanged;
use super::table::{Data, LIVE, LeaseData, LeaseEntry, ReadData, TABLE};
use super::{child, copier, monitor, space, threads};
use crate::atfork::{BeforeForks, NoFork};
use crate::backing::Backing;
use crate::budget;
use crate::error::Result;
use crate::file_system::FileSystem;
use crate::input::Source;
use crate::locked_pages::LockedPages;
use crate::process::ProcessLock;
use crate::reason::Reason;
use crate::region::Region;
use crate::sync::Rank;
use crate::sys::clock;
use crate::sys::file::{self, Stat};
use crate::sys::lease::{self, Lease};
use crate::sys::object;
use crate::table::Claimed;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// Bytes that are faulted in between two checks of the lease; a copy has all its pages.
const POPULATE_CHUNK: usize = 2 << 20;

/// The leased files of this process.
static FILES: ProcessLock<Files> = ProcessLock::new(Rank::Leases);

/// By inode number.
type Files = HashMap<u64, Vec<KnownMapping>>;

/// A mapping that other snapshots may share.
struct KnownMapping {
    mapping: Weak<Inner>,
    entry: &'static LeaseEntry,
    stat: Stat,
    /// The range of the file that it maps.
    range: Range<u64>,
    memory_limit: Option<u64>,
}

/// Reserves the address space that the handling of a break needs for a mapping of `len` bytes.
pub(super) fn reserve_space(len: usize) -> io::Result<()> {
    if space::fits(len) {
        return Ok(());
    }
    let _one_thread = FILES.lock();
    space::reserve(len)
}

/// A descriptor with a lease, which the monitor looks after once its entry is published.
pub(super) struct LeaseHolder {
    pub(super) file: Arc<File>,
    // Dropped after `file`: the number stays registered until it is closed, so that a child that is forked meanwhile closes it.
    pub(super) entry: OwnEntry,
    /// Taken before the description with the lease was opened.
    opened: BeforeForks,
    /// Set while the descriptor is being closed: the lease was released, or ends with it. Dropped last.
    pub(super) closing: Option<NoFork>,
}

/// An entry whose descriptor is forgotten when it is dropped.
pub(super) struct OwnEntry(Claimed<LeaseEntry>);

impl Deref for OwnEntry {
    type Target = LeaseEntry;

    fn deref(&self) -> &LeaseEntry {
        &self.0
    }
}

impl Drop for OwnEntry {
    fn drop(&mut self) {
        self.forget_descriptor();
    }
}

impl LeaseHolder {
    /// Sets a lease. Starts the monitor if it does not run.
    pub(super) fn new(file: Arc<File>, opened: BeforeForks, lease: Lease) -> io::Result<Self> {
        if !copier::is_running() {
            // Its threads never end. Called before the lock is taken: it may wait for another thread.
            object::keep_loaded(threads::start as *const () as usize);
            let _one_thread = FILES.lock();
            child::install()?;
            threads::start()?;
        }
        let entry = OwnEntry(TABLE.claim());
        entry.prepare(file.as_fd().as_raw_fd(), lease, clock::monotonic_ms());
        let holder = LeaseHolder {
            file,
            entry,
            opened,
            closing: None,
        };
        monitor::set_lease(holder.file.as_fd(), lease)?;
        Ok(holder)
    }

    /// Hands a mapping to the monitor. False if the lease is broken already.
    ///
    /// # Safety
    /// `data` is a mapping of the file, which the caller owns and unmaps after [`LeaseEntry::end`] only.
    pub(super) unsafe fn publish(&self, data: Data) -> io::Result<bool> {
        reserve_space(data.copy_len())?;
        // SAFETY: prepared by `new`; the caller's promise.
        unsafe { self.entry.publish(data) };
        Ok(monitor::look_after(&self.entry))
    }

    /// False if a child was forked that may have the file open or mapped, and does not know of the lease. To be called after
    /// the entry was published: from then on the handler in a child finds it.
    pub(super) fn is_alone(&self) -> bool {
        self.opened.is_still()
    }

    /// Gives up a lease that was published. False if the copier was faster: then the bytes of the mapping are a copy, and
    /// the descriptor leads to no file.
    fn give_up(&self) -> bool {
        let was_leased = self.entry.end();
        if was_leased {
            self.release();
        }
        was_leased
    }

    /// Releases the lease of an entry that was ended. True if it was held until now.
    pub(super) fn release(&self) -> bool {
        // Closing the descriptor is not enough: the caller may still have it open.
        let was_held = lease::release(self.file.as_fd().as_raw_fd());
        self.entry.forget_descriptor();
        was_held
    }
}

impl Drop for LeaseHolder {
    fn drop(&mut self) {
        if self.closing.is_none() && self.entry.fd.load(Ordering::Relaxed) >= 0 {
            self.entry.end();
            self.release();
        }
    }
}

/// A read lease whose file is not mapped yet.
pub(crate) struct ReadLease {
    holder: LeaseHolder,
    stat: Stat,
    system: FileSystem,
    /// Dropped once the mapping is registered.
    _no_fork: NoFork,
}

impl ReadLease {
    /// Sets one, or returns why there is none: on a file system where a lease proves nothing, for a file that a process
    /// has open for writing, for one of another owner (without CAP_LEASE).
    pub(crate) fn acquire(
        source: &Source<'_>,
        system: FileSystem,
    ) -> Result<std::result::Result<Self, Reason>> {
        if !system.keeps_leases() {
            return Ok(Err(Reason::FileSystem));
        }
        let (file, no_fork) = match source.lease_descriptor() {
            Ok(made) => made,
            Err(error) => return Ok(Err(no_descriptor(&error))),
        };
        if budget::is_descriptor_scarce(file.as_fd()) {
            return Ok(Err(Reason::Descriptors));
        }
        let holder = match LeaseHolder::new(file, no_fork.since(), Lease::Read) {
            Ok(holder) => holder,
            Err(error) => return Ok(Err(refusal(&error))),
        };
        let stat = file::stat(holder.file.as_fd()).map_err(|e| source.error("fstat", e))?;
        Ok(Ok(ReadLease {
            holder,
            stat,
            system,
            _no_fork: no_fork,
        }))
    }

    /// The metadata of the file, which stay while the lease holds.
    pub(crate) fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Maps `offset..offset+len` under the lease. If that succeeds, nothing is read from the source any more.
    pub(crate) fn map(
        self,
        offset: u64,
        len: usize,
        memory_limit: Option<u64>,
    ) -> io::Result<Mapped> {
        let ReadLease {
            holder,
            stat,
            system,
            ..
        } = self;
        // Other snapshots can share a mapping of the whole file. A small window is not worth the copy of all of it.
        let size = usize::try_from(stat.size).unwrap_or(usize::MAX);
        let (from, mapped) = if len >= size / 2 {
            (0, size)
        } else {
            (offset, len)
        };
        let (region, offset_in_page) = Region::file(holder.file.as_fd(), from, mapped)?;
        let start = from - offset_in_page as u64;
        let kind = LeaseData::Read(ReadData {
            offset: start,
            stat,
            system,
            memory_limit,
        });
        let data = Data::new(&region, kind);
        // SAFETY: the region is unmapped after the entry was ended: by `give_up`, or by `Inner`.
        let is_held = unsafe { holder.publish(data) }?;
        let is_alone = holder.is_alone();
        // Released, not only closed: a child that was forked meanwhile may have the file open, and handles no break.
        if !(is_held && is_alone) && holder.give_up() {
            return Ok(if is_alone {
                Mapped::Broken
            } else {
                Mapped::Forked
            });
        }
        let inner = Arc::new(Inner {
            holder,
            region,
            stat,
        });
        share(&inner, start..from + mapped as u64, memory_limit);
        Ok(Mapped::Leased(
            LeasedMapping(inner),
            (offset - start) as usize,
        ))
    }
}

/// The result of [`ReadLease::map`].
pub(crate) enum Mapped {
    /// Second, where in the mapping the offset is.
    Leased(LeasedMapping, usize),
    /// A writer came meanwhile.
    Broken,
    /// Another thread forked meanwhile: try again.
    Forked,
}

/// Lets snapshots of the same file use a mapping, which has the bytes `range` of it.
fn share(inner: &Arc<Inner>, range: Range<u64>, memory_limit: Option<u64>) {
    let known = KnownMapping {
        mapping: Arc::downgrade(inner),
        entry: inner.holder.entry.0.get(),
        stat: inner.stat,
        range,
        memory_limit,
    };
    let mut files = FILES.lock();
    let mappings = files.entry(inner.stat.stamp.inode());
    mappings.or_default().push(known);
}

/// Why there was no descriptor for a lease.
fn no_descriptor(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => Reason::Descriptors,
        _ if error.kind() == io::ErrorKind::WouldBlock => Reason::Forking,
        _ => Reason::NotReopened,
    }
}

/// Why the kernel set no lease.
fn refusal(error: &io::Error) -> Reason {
    if !copier::is_running() {
        return match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData => Reason::LeasesOff,
            _ => Reason::Threads,
        };
    }
    match error.raw_os_error() {
        Some(libc::EACCES) => Reason::OtherOwner,
        Some(libc::EAGAIN) => Reason::OpenForWriting,
        Some(libc::EINVAL) if lease::are_off() => Reason::LeasesOff,
        Some(libc::EINVAL) => Reason::FileSystem,
        Some(libc::EMFILE | libc::ENFILE) => Reason::Descriptors,
        _ => Reason::Refused,
    }
}

/// A mapping whose bytes do not change when other processes write to the file.
#[derive(Clone)]
pub(crate) struct LeasedMapping(Arc<Inner>);

struct Inner {
    holder: LeaseHolder,
    region: Region,
    /// The file when the lease was set.
    stat: Stat,
}

impl LeasedMapping {
    /// Shares the mapping of a file that is leased and unbroken, and has not changed; second, where in the mapping the
    /// range starts. `stat` is the file as it was found.
    pub(crate) fn find(
        stat: &Stat,
        range: &Range<u64>,
        memory_limit: Option<u64>,
    ) -> Option<(Self, usize)> {
        let files = FILES.lock();
        let known = files.get(&stat.stamp.inode())?;
        let found = known.iter().find(|known| {
            known.stat.stamp == stat.stamp
                && known.range.start <= range.start
                && range.end <= known.range.end
                && known.memory_limit == memory_limit
                && known.entry.state() == LIVE
                && known.entry.broken_at.load(Ordering::Acquire) == 0
        })?;
        let offset_in_mapping = (range.start - found.range.start) as usize;
        let inner = found.mapping.upgrade();
        drop(files);
        inner.map(|inner| (LeasedMapping(inner), offset_in_mapping))
    }

    /// The start of the mapping, which does not change.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.0.region.start()
    }

    /// The locked pages of the mapping.
    pub(crate) fn locked_pages(&self) -> Option<&LockedPages> {
        self.0.region.locked_pages()
    }

    /// The backing of the bytes now.
    pub(crate) fn backing(&self) -> Backing {
        self.0.holder.entry.backing()
    }

    /// Why the file is not leased any more; `None` if it is.
    pub(crate) fn reason(&self) -> Option<Reason> {
        if self.backing() == Backing::Leased {
            return None;
        }
        let was_released = self.0.holder.entry.was_released();
        Some(if was_released {
            Reason::Released
        } else {
            Reason::Written
        })
    }

    /// False if the bytes are not, or may not be, those that the file had when it was leased.
    pub(crate) fn is_consistent(&self) -> bool {
        let entry = &self.0.holder.entry;
        loop {
            entry.wait_for_swap_in_progress();
            let intact = || !entry.is_inconsistent.load(Ordering::Acquire);
            if !entry.needs_lease() {
                return intact();
            }
            let is_held = entry.is_held();
            let unchanged = is_unchanged(self.0.holder.file.as_fd(), &self.0.stat, is_held);
            // If the mapping was replaced meanwhile, the descriptor may lead to nothing.
            if entry.needs_lease() {
                return unchanged && intact();
            }
        }
    }

    /// Faults in all pages.
    pub(crate) fn populate(&self) -> io::Result<()> {
        let Inner { region, holder, .. } = &*self.0;
        let mut done = 0;
        while done < region.len() && holder.entry.needs_lease() {
            let end = region.len().min(done + POPULATE_CHUNK);
            region.populate(done..end)?;
            done = end;
        }
        Ok(())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut files = FILES.lock();
        if let Entry::Occupied(mut known) = files.entry(self.stat.stamp.inode()) {
            known
                .get_mut()
                .retain(|known| !ptr::eq(known.mapping.as_ptr(), self));
            if known.get().is_empty() {
                known.remove();
            }
        }
        drop(files);
        let no_fork = NoFork::begin();
        // The bytes stay protected until they are unmapped.
        self.holder.entry.end();
        self.region = Region::empty();
        // The descriptor is closed, and the lease not released, since a child that was forked before may still depend on it. A
        // child that was forked just now may have the file mapped, and no entry, but no code there uses the mapping: then the
        // holder releases the lease.
        let is_only_owner = Arc::strong_count(&self.holder.file) == 1;
        let may_close = |no_fork: &NoFork| is_only_owner && no_fork.since().is_still();
        self.holder.closing = no_fork.filter(may_close);
    }
}
