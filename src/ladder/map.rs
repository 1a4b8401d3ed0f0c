//! The strategies that map: files that never change, leased files, and clones.

use crate::backing::Backing;
use crate::budget;
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::held::{Held, Opened};
use crate::input::{self, Access, Request, Source, Window};
use crate::lease::read::{LeasedMapping, Mapped, ReadLease};
use crate::reason::Reason;
use crate::region::Region;
use crate::sys::file::{self, FileType, Stat};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// Number of attempts to lease a file while other threads fork.
const FORKS_MAX: u32 = 20;

/// A file of at most this size, in bytes, is copied rather than cloned if it is in the page cache: 64 MiB are copied in
/// 10 to 30 ms, and read by way of a clone, which starts without pages, in 100 ms.
const COPY_RATHER_THAN_CLONE_MAX: u64 = 64 << 20;

/// The result of the strategies that map.
pub(super) enum Outcome {
    Mapped(Opened),
    MustCopy(Reason),
}

/// Tries the strategies that map.
pub(super) fn map(
    source: &Source<'_>,
    window: &Window<'_>,
    stat: Stat,
    range: &Range<u64>,
) -> Result<Outcome> {
    let request = window.request;
    let len = range.end - range.start;
    if len == 0 || request.is_read(len) {
        return Ok(Outcome::MustCopy(Reason::Small));
    }
    if request.may_lease() {
        let found = LeasedMapping::find(&stat, range, request.limits.memory);
        if let Some((mapping, offset_in_mapping)) = found {
            let len = addressable(source, range)?;
            return leased(source, request, mapping, offset_in_mapping, len);
        }
    }
    let fd = source.fd();
    let system = FileSystem::from_stat(fd, &stat).map_err(|e| source.error("fstatfs", e))?;
    if system == FileSystem::NeverWritten {
        return map_unchanging(source, window, (system, stat), Backing::ReadOnly);
    }
    // The size is of the same moment. In an overlay another process may copy the file up meanwhile: then the path and
    // the descriptor lead to another file, but what is mapped is the one that was opened.
    if system.is_verity(&stat) {
        return map_unchanging(source, window, (system, stat), Backing::Sealed);
    }
    if system.is_sealed(fd) {
        // The size is read after the check: before it was sealed, the file may have been truncated.
        let stat = source.stat()?;
        return map_unchanging(source, window, (system, stat), Backing::Sealed);
    }
    let scarce = || budget::refuse_mapping(len);
    let reason = match request.lease.then(scarce).flatten() {
        Some(reason) => reason,
        None => match lease(source, window, system)? {
            Outcome::MustCopy(reason) => reason,
            leased => return Ok(leased),
        },
    };
    if request.access == Access::Read && is_copy_faster(fd, range, request) {
        return Ok(Outcome::MustCopy(reason));
    }
    clone(source, window, system, reason)
}

/// A mapping of a file that never changes.
fn map_unchanging(
    source: &Source<'_>,
    window: &Window<'_>,
    (system, stat): (FileSystem, Stat),
    backing: Backing,
) -> Result<Outcome> {
    let range = window.in_file(stat.size)?;
    if is_too_sparse(system, &stat, window.request) {
        return Ok(Outcome::MustCopy(Reason::Sparse));
    }
    map_range(source, window.request, source.fd(), range, backing, None)
}

/// True if reading all holes of a file in memory would take more memory than the limit: a page each.
fn is_too_sparse(system: FileSystem, stat: &Stat, request: &Request) -> bool {
    let holes = stat.size.saturating_sub(stat.allocated);
    system == FileSystem::Tmpfs && holes > 0 && !budget::fits_memory(holes, request.limits.memory)
}

/// A mapping under a read lease.
fn lease(source: &Source<'_>, window: &Window<'_>, system: FileSystem) -> Result<Outcome> {
    let request = window.request;
    if !request.may_lease() {
        return Ok(Outcome::MustCopy(Reason::NotAsked));
    }
    for _ in 0..FORKS_MAX {
        let lease = match ReadLease::acquire(source, system)? {
            Ok(lease) => lease,
            Err(reason) => return Ok(Outcome::MustCopy(reason)),
        };
        // The size cannot change from here on.
        let range = window.in_file(lease.stat().size)?;
        if range.is_empty() {
            return Ok(Outcome::MustCopy(Reason::Small));
        }
        let len = addressable(source, &range)?;
        match lease.map(range.start, len, request.limits.memory) {
            Ok(Mapped::Leased(mapping, offset_in_mapping)) => {
                return leased(source, request, mapping, offset_in_mapping, len);
            }
            Ok(Mapped::Broken) => return Ok(Outcome::MustCopy(Reason::OpenForWriting)),
            Ok(Mapped::Forked) => {}
            // No address space, or no further mapping: the bytes can still be read.
            Err(_) => return Ok(Outcome::MustCopy(Reason::Mappings)),
        }
    }
    Ok(Outcome::MustCopy(Reason::Forking))
}

fn leased(
    source: &Source<'_>,
    request: &Request,
    mapping: LeasedMapping,
    offset_in_mapping: usize,
    len: usize,
) -> Result<Outcome> {
    if request.populate {
        mapping.populate().map_err(|e| not_populated(source, e))?;
    }
    Ok(Outcome::Mapped(Opened {
        bytes: Held::leased(mapping, offset_in_mapping, len),
        is_consistent: true,
        reason: None,
    }))
}

/// True if copying the range is faster than faulting in the pages of a clone. Three pages are sampled.
fn is_copy_faster(fd: BorrowedFd<'_>, range: &Range<u64>, request: &Request) -> bool {
    let len = range.end - range.start;
    let is_small = len <= COPY_RATHER_THAN_CLONE_MAX && request.may_copy(len);
    let pages = [range.start, range.start + len / 2, range.end - 1];
    is_small
        && budget::fits_memory(len, request.limits.memory)
        && pages.iter().all(|&offset| file::is_cached(fd, offset))
}

/// A mapping of a clone.
fn clone(
    source: &Source<'_>,
    window: &Window<'_>,
    system: FileSystem,
    reason: Reason,
) -> Result<Outcome> {
    let Some(clone) = input::clone_of(source.fd(), system) else {
        return Ok(Outcome::MustCopy(reason));
    };
    // Its size is that of the file when it was cloned.
    let stat = file::stat(clone.as_fd()).map_err(|e| source.error("fstat", e))?;
    let range = window.in_file(stat.size)?;
    let fd = clone.as_fd();
    map_range(
        source,
        window.request,
        fd,
        range,
        Backing::Cloned,
        Some(reason),
    )
}

/// Maps a range of a file that cannot change.
fn map_range(
    source: &Source<'_>,
    request: &Request,
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    backing: Backing,
    reason: Option<Reason>,
) -> Result<Outcome> {
    let len = addressable(source, &range)?;
    if let Some(reason) = budget::refuse_mapping(len as u64) {
        return Ok(Outcome::MustCopy(reason));
    }
    let mapped = map_window(fd, range.start, len, request.access);
    let Ok((region, offset_in_page)) = mapped else {
        return Ok(Outcome::MustCopy(Reason::Mappings));
    };
    if request.populate {
        let populated = region.populate(0..region.len());
        populated.map_err(|e| not_populated(source, e))?;
    }
    Ok(Outcome::Mapped(Opened {
        bytes: Held::mapped(region, offset_in_page, len, backing),
        is_consistent: true,
        reason,
    }))
}

pub(super) fn map_window(
    fd: BorrowedFd<'_>,
    offset: u64,
    len: usize,
    access: Access,
) -> io::Result<(Region, usize)> {
    if len == 0 {
        return Ok((Region::empty(), 0));
    }
    match access {
        Access::Read => Region::file(fd, offset, len),
        Access::CopyOnWrite => Region::copy_on_write(fd, offset, len),
    }
}

/// `EFAULT` is a page that would have been a signal, madvise(2).
fn not_populated(source: &Source<'_>, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EFAULT) => Error::pages_lost(source.name().as_deref()),
        _ => source.error("madvise", error),
    }
}

pub(super) fn addressable(source: &Source<'_>, range: &Range<u64>) -> Result<usize> {
    let len = usize::try_from(range.end - range.start).ok();
    len.filter(|&len| len <= isize::MAX.unsigned_abs())
        .ok_or_else(|| Error::too_large_to_address(source.name().as_deref()))
}

/// Maps the window of a regular file with nothing that keeps its bytes from changing.
///
/// # Safety
/// As long as a reference into the mapping exists, no process changes or truncates the file.
#[allow(unsafe_code)]
pub(crate) unsafe fn map_unguarded(source: &Source<'_>, request: &Request) -> Result<Opened> {
    let stat = source.stat()?;
    let not_mapped = |reason| Error::not_mapped(source.name().as_deref(), reason);
    match stat.kind {
        FileType::Regular => {}
        FileType::Directory => return Err(Error::is_directory(source.name().as_deref())),
        FileType::Block => return Err(not_mapped(Reason::BlockDevice)),
        _ => return Err(not_mapped(Reason::Stream)),
    }
    let fd = source.fd();
    // As files of /proc.
    let first = &mut [MaybeUninit::uninit()];
    if stat.size == 0 && file::read_at(fd, first, 0).is_ok_and(|bytes| !bytes.is_empty()) {
        return Err(not_mapped(Reason::Stream));
    }
    let range = Window::new(0, request).in_file(stat.size)?;
    match map_range(source, request, fd, range, Backing::Unguarded, None)? {
        Outcome::Mapped(opened) => Ok(opened),
        Outcome::MustCopy(reason) => Err(not_mapped(reason)),
    }
}
