//! Write leases: a shared mapping of a file that no other process has open.
//!
//! A write lease is granted only while the file is open nowhere else, and a process that then opens it is blocked by the
//! kernel until the lease is released. After three quarters of the lease-break time it is released, and the mapping stays
//! as memory (see `detach`).
#![allow(unsafe_code)]

use super::read::{LeaseHolder, reserve_space};
use super::table::{Data, LeaseData, WriteData};
use super::{copier, monitor};
use crate::atfork::{BeforeForks, NoFork, NotForChildren};
use crate::backing::Backing;
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::locked_pages::LockedPages;
use crate::mapped_file::{FileWindow, MappedFile};
use crate::page;
use crate::process::Process;
use crate::space::Check;
use crate::sys::file::{self, Stat};
use crate::sys::lease::Lease;
use crate::sys::{pages, userfault};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Why no write lease was granted.
pub(crate) enum WriteLeaseError {
    /// The file is open elsewhere, or was opened just now.
    Busy,
    /// No lease is possible.
    Unsupported(&'static str),
    Failed(Error),
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> WriteLeaseError {
    move |e| WriteLeaseError::Failed(Error::os(operation, None, e))
}

/// A file that is open nowhere else; it is mapped once its size is known to stay. Dropping it lets other processes in.
pub(crate) struct WriteLease {
    holder: LeaseHolder,
    /// The userfaultfd for letting another process in.
    userfaultfd: OwnedFd,
}

impl WriteLease {
    /// `file` has a description of its own, open for reading and writing, that was made after `opened`.
    pub(crate) fn acquire(file: File, opened: BeforeForks) -> Result<Self, WriteLeaseError> {
        let system = FileSystem::from_fd(file.as_fd()).map_err(failed("fstatfs"))?;
        if !system.keeps_leases() {
            return Err(WriteLeaseError::Unsupported(
                "its file system has no leases to rely on",
            ));
        }
        if !system.writes_in_place() {
            // A store may need new space; on a full disk it would be a signal.
            return Err(WriteLeaseError::Unsupported(
                "its file system writes pages to new places, and could not report a full disk",
            ));
        }
        let userfaultfd = userfault::create().map_err(|e| match e.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => failed("userfaultfd")(e),
            _ => WriteLeaseError::Unsupported(
                "userfaultfd(2) is refused (by a container's seccomp filter, or the kernel), so other processes could \
                 not be let in",
            ),
        })?;
        let holder = LeaseHolder::new(Arc::new(file), opened, Lease::Write).map_err(refusal)?;
        Ok(WriteLease {
            holder,
            userfaultfd,
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.holder.file
    }

    /// False once another process waits to open the file.
    pub(crate) fn is_held(&self) -> bool {
        self.holder.entry.is_held()
    }

    /// Maps bytes of the file, which are not touched before they have blocks on the disk.
    pub(crate) fn map(&self, window: FileWindow) -> Result<UnpublishedMapping> {
        let not_for_children = NotForChildren::new()?;
        let mapped = MappedFile::new(self.file().as_fd(), window)?;
        not_for_children.set_range(mapped.region().addresses());
        reserve_space(copy_len(&mapped)).map_err(|e| Error::os("mmap", None, e))?;
        Ok(UnpublishedMapping {
            not_for_children,
            mapped,
        })
    }

    /// The mapping, once its bytes have blocks. If it fails, `undo` makes the file as it was before the lease is released.
    pub(crate) fn publish(
        self,
        mapping: UnpublishedMapping,
        undo: impl FnOnce(&Self),
    ) -> Result<WriteLeasedMapping, WriteLeaseError> {
        if let Err(why) = self.hand_over(&mapping.mapped) {
            // Before it is unmapped.
            self.holder.entry.end();
            undo(&self);
            return Err(why);
        }
        mapping.not_for_children.forget_range();
        Ok(WriteLeasedMapping {
            holder: self.holder,
            userfaultfd: Some(self.userfaultfd),
            mapped: mapping.mapped,
            process: Process::current(),
        })
    }

    fn hand_over(&self, mapped: &MappedFile) -> Result<(), WriteLeaseError> {
        split_page_cache_folios(mapped);
        let stat = file::stat(self.file().as_fd()).map_err(failed("fstat"))?;
        let data = data(mapped, self.userfaultfd.as_raw_fd(), stat);
        // SAFETY: the file is unmapped after the entry was ended: by `publish`, or by `WriteLeasedMapping`.
        let is_held = unsafe { self.holder.publish(data) }.map_err(failed("mmap"))?;
        // Otherwise filling holes may have taken longer than the kernel waits, or a child that another thread has forked
        // meanwhile may have the file open.
        if is_held && self.holder.is_alone() {
            Ok(())
        } else {
            Err(WriteLeaseError::Busy)
        }
    }
}

/// A mapping of the file that the lease threads do not know yet.
pub(crate) struct UnpublishedMapping {
    /// A child that is forked meanwhile would keep the file open. First: it is dropped before the bytes are unmapped.
    not_for_children: NotForChildren,
    mapped: MappedFile,
}

fn refusal(error: io::Error) -> WriteLeaseError {
    if !copier::is_running() {
        return WriteLeaseError::Unsupported(
            "no threads can be started that look after it, or the lease-break time cannot be read (see ulimit -u, \
             ulimit -n, vm.max_map_count, /proc)",
        );
    }
    match error.raw_os_error() {
        Some(libc::EAGAIN) => WriteLeaseError::Busy,
        Some(libc::EACCES) => WriteLeaseError::Unsupported(
            "it belongs to another user, and this process does not have CAP_LEASE",
        ),
        Some(libc::EINVAL) => WriteLeaseError::Unsupported("leases are off (see fs.leases-enable)"),
        _ => failed("fcntl")(error),
    }
}

/// How much of a mapping is copied when the lease is lost, in bytes: whole pages, one at least.
fn copy_len(mapped: &MappedFile) -> usize {
    page::align_up(mapped.used().max(1)).unwrap_or(mapped.region().len())
}

/// The data of a mapping for the lease threads.
fn data(mapped: &MappedFile, userfaultfd: RawFd, stat: Stat) -> Data {
    let kind = LeaseData::Write(WriteData {
        offset: mapped.offset(),
        used: mapped.used(),
        copy_len: copy_len(mapped),
        userfaultfd,
        stat,
        supplied: 0,
    });
    Data::new(mapped.region(), kind)
}

/// Runs `change`, which may move the mapping. A child that is forked meanwhile must not touch what comes to its old place, and
/// would have it mapped: so a fork waits.
fn move_mapping<T>(
    now: &mut Data,
    write: WriteData,
    mapped: &mut MappedFile,
    change: impl FnOnce(&mut MappedFile) -> T,
) -> T {
    let _no_fork = NoFork::begin();
    now.hide();
    let changed = change(mapped);
    now.set(data(mapped, write.userfaultfd, write.stat));
    changed
}

/// The longest window whose page-cache folios are split, in bytes.
const SPLIT_MAX: usize = 256 << 20;

/// Page-cache folios start at multiples of their size, so every folio of this size or more has a page at a multiple of it.
/// Smaller steps take more lookups, and save write-back: a store to a smaller folio writes up to one step needlessly.
const SPLIT_STEP: usize = 128 << 10;

/// The page cache keeps what was written in one go in large folios (up to 2 MiB, Linux 6.16 on ext4), and writes a folio
/// as a whole, even if one byte of it was stored through a mapping. `MADV_COLD` for a part of a folio splits it into
/// pages, so that a flush writes what was changed. Costs about 0.13 ms for each MiB that is cached, and 0.05 ms when it
/// was done before.
fn split_page_cache_folios(mapped: &MappedFile) {
    if mapped.used() > SPLIT_MAX {
        return;
    }
    let (region, page) = (mapped.region(), page::size());
    let mut resident = vec![0; mapped.used().div_ceil(page)];
    if pages::mincore(region.addresses().start, &mut resident).is_err() {
        return;
    }
    for (number, flags) in resident.iter().enumerate().step_by(SPLIT_STEP / page) {
        // Pages that are not cached stay on the disk.
        if flags & 1 == 0 {
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

/// A shared mapping of a file that is open nowhere else, until another process is let in; then memory.
pub(crate) struct WriteLeasedMapping {
    holder: LeaseHolder,
    userfaultfd: Option<OwnedFd>,
    mapped: MappedFile,
    process: Process,
}

impl WriteLeasedMapping {
    /// The locked pages of the mapping.
    pub(crate) fn locked_pages(&self) -> Option<&LockedPages> {
        self.mapped.locked_pages()
    }

    /// The start of the mapping, until it is resized.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.mapped.start()
    }

    /// The backing of the bytes. In a forked child it is unknown.
    pub(crate) fn backing(&self) -> Backing {
        if self.file().is_some() {
            return Backing::Leased;
        }
        match self.holder.entry.backing() {
            Backing::Leased => Backing::Memory,
            copy => copy,
        }
    }

    /// The file, as long as stores go to it. In a forked child there is none.
    pub(crate) fn file(&self) -> Option<Arc<File>> {
        let is_stored = self.process.is_current() && self.holder.entry.is_stored();
        is_stored.then(|| Arc::clone(&self.holder.file))
    }

    /// True if another process is blocked in open(2), or was let in already.
    pub(crate) fn has_waiter(&self) -> bool {
        let entry = &self.holder.entry;
        !self.process.is_current() || !entry.needs_lease() || !entry.is_held()
    }

    /// Changes the length of the mapping, after `size` has changed that of the file; `None` if the lease is gone. When its
    /// second argument fails, `size` must undo its changes and return: the lease is released soon.
    pub(crate) fn resize(
        &mut self,
        len: usize,
        size: impl FnOnce(&File, &Check<'_>) -> Result<()>,
    ) -> Option<Result<()>> {
        if !self.process.is_current() {
            return None;
        }
        // Reserved for the copy of the longer window, while the call can still fail.
        let copy_len = len.saturating_add(2 * page::size());
        if let Err(error) = reserve_space(copy_len) {
            return Some(Err(Error::os("mmap", None, error)));
        }
        let (mapped, LeaseHolder { file, entry, .. }) = (&mut self.mapped, &self.holder);
        let is_due = || monitor::is_due(entry);
        let check = || match is_due() {
            false => Ok(()),
            true => Err(io::ErrorKind::WouldBlock.into()),
        };
        let resized = entry.while_leased(|now| match now.kind {
            LeaseData::Write(write) if !entry.is_moved.load(Ordering::SeqCst) => {
                let resized = move_mapping(now, write, mapped, |mapped| mapped.make_room(len));
                let resized = resized.and_then(|()| size(file, &check));
                move_mapping(now, write, mapped, |mapped| mapped.take_len(len, &resized));
                Some(resized)
            }
            _ => None,
        });
        // After an error the file is as it was. If the break was due meanwhile, the lease counts as lost.
        resized
            .flatten()
            .filter(|resized| resized.is_ok() || !is_due())
    }

    /// Lets other processes in. False if one was let in before.
    pub(crate) fn release(mut self) -> bool {
        self.close()
    }

    fn close(&mut self) -> bool {
        let Some(userfaultfd) = self.userfaultfd.take() else {
            return false;
        };
        // Until the file is closed: a child that is forked in between would keep it open or mapped.
        self.holder.closing = NoFork::begin();
        let was_leased = self.holder.entry.end();
        let is_stored = !self.holder.entry.is_moved.load(Ordering::SeqCst);
        // Closed first: a prefetch may be blocked on a page that is never supplied, and unmapping waits for it.
        drop(userfaultfd);
        self.mapped.unmap();
        self.holder.release() && was_leased && is_stored
    }
}

impl Drop for WriteLeasedMapping {
    fn drop(&mut self) {
        self.close();
    }
}
