//! What has a size: regular files and block devices, by the rungs from "small" on.

use super::Snapshot;
use super::options::SnapshotOptions;
use crate::backing::Backing;
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::input::{self, Copy, Source, Window};
use crate::lease::read::ReadLease;
use crate::region::Region;
use crate::sys::file::{self, Kind, Stat};
use crate::sys::limits;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

/// A file of so many bytes is read, whatever else is held: its mapping costs more than its few page faults.
const READ_ALWAYS: u64 = 32 << 10;

/// A larger one, up to this size, is read only if memory is warm.
const READ_WARM: u64 = 1 << 20;

/// How many bytes in heap blocks may be held by snapshots before the heap is taken for cold. What was freed is given
/// again without a page fault, so a program that drops each file before the next reads faster than it maps; one that
/// keeps them all would fault every page in, and maps faster.
const WARM: usize = 4 << 20;

/// True if reading so many bytes costs less than mapping them.
fn is_read_faster(len: u64) -> bool {
    let warm = || Buffer::in_blocks() as u64 + len <= WARM as u64;
    len <= READ_ALWAYS || (len <= READ_WARM && warm())
}

/// The bytes of a regular file.
pub(super) fn take(
    options: &mut SnapshotOptions<'_>,
    source: &Source<'_>,
    stat: Stat,
    position: u64,
) -> Result<Snapshot> {
    let window = Window::new(source, position, options.offset, options.len);
    let range = window.of(stat.size)?;
    let snapshot = match map(options, source, &window, stat, range.clone())? {
        Some(mapped) => mapped,
        None => copy(options, source, &window, stat)?,
    };
    window.leave(source, range.start + snapshot.len() as u64)?;
    Ok(snapshot)
}

/// The rungs that map; `None` if the bytes have to be read or copied.
fn map(
    options: &SnapshotOptions<'_>,
    source: &Source<'_>,
    window: &Window,
    stat: Stat,
    range: Range<u64>,
) -> Result<Option<Snapshot>> {
    let size = range.end - range.start;
    if size == 0 || (is_read_faster(size) && !options.must_map) {
        return Ok(None);
    }
    let fd = source.fd();
    let system = FileSystem::from_fd(fd).map_err(|e| source.error("fstatfs", e))?;
    if stat.verity || system.is_sealed(fd) {
        // The size that was seen before the seal may have been cut until it was set.
        let range = window.of(source.stat()?.size)?;
        return map_range(options, source, fd, range, Backing::Sealed);
    }
    // A lease keeps its descriptor, and the last ones are for the program.
    let dear = !options.must_map && limits::are_descriptors_short(fd);
    if options.lease && !options.across_fork && !dear {
        if let Some(leased) = lease(options, source, window, system)? {
            return Ok(Some(leased));
        }
    }
    if let Some(clone) = input::clone_of(fd, system) {
        let fd = clone.as_fd();
        let stat = file::stat(fd).map_err(|e| source.error("statx", e))?;
        // Its size is the one that the file had when it was cloned.
        let range = window.of(stat.size)?;
        return map_range(options, source, fd, range, Backing::Cloned);
    }
    match options.must_map {
        true => Err(Error::NotMappable {
            path: source.name(),
            what: "nothing would keep its bytes from changing",
        }),
        false => Ok(None),
    }
}

/// What becomes of a mapping that failed (no address space, vm.max_map_count): the bytes can be read still.
fn mapped_or_read<T>(
    options: &SnapshotOptions<'_>,
    source: &Source<'_>,
    mapped: io::Result<T>,
) -> Result<Option<T>> {
    match mapped {
        Ok(mapped) => Ok(Some(mapped)),
        Err(e) if options.must_map => Err(source.error("mmap", e)),
        Err(_) => Ok(None),
    }
}

/// A mapping under a read lease; `None` where there can be none, or where a writer is there already.
fn lease(
    options: &SnapshotOptions<'_>,
    source: &Source<'_>,
    window: &Window,
    system: FileSystem,
) -> Result<Option<Snapshot>> {
    let Some(lease) = ReadLease::take(source, system)? else {
        return Ok(None);
    };
    // Nobody can change the size now.
    let range = window.of(lease.stat().size)?;
    if range.is_empty() {
        return Ok(None);
    }
    let len = addressable(source, &range)?;
    let mapped = lease.map(range.start, len, options.memory_limit);
    let Some(Some((guarded, delta))) = mapped_or_read(options, source, mapped)? else {
        return Ok(None);
    };
    if options.populate {
        guarded.populate().map_err(|e| not_populated(source, e))?;
    }
    Ok(Some(Snapshot::leased(guarded, delta, len)))
}

/// `EFAULT` is a page that would have been a signal, madvise(2).
fn not_populated(source: &Source<'_>, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EFAULT) => Error::Faulted {
            path: source.name(),
        },
        _ => source.error("madvise", error),
    }
}

fn addressable(source: &Source<'_>, range: &Range<u64>) -> Result<usize> {
    usize::try_from(range.end - range.start).map_err(|_| Error::TooLarge {
        path: source.name(),
        limit: isize::MAX.unsigned_abs() as u64,
    })
}

/// Maps a range of a file that cannot change, or that the caller answers for. `None` if it has to be read.
fn map_range(
    options: &SnapshotOptions<'_>,
    source: &Source<'_>,
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    backing: Backing,
) -> Result<Option<Snapshot>> {
    let len = addressable(source, &range)?;
    if len == 0 {
        return Ok(Some(Snapshot::mapped(Region::empty(), 0, 0, backing)));
    }
    let mapped = Region::file(fd, range.start, len);
    let Some((region, delta)) = mapped_or_read(options, source, mapped)? else {
        return Ok(None);
    };
    if options.populate {
        let populated = region.populate(0..region.len());
        populated.map_err(|e| not_populated(source, e))?;
    }
    Ok(Some(Snapshot::mapped(region, delta, len, backing)))
}

/// The last rung.
fn copy(
    options: &mut SnapshotOptions<'_>,
    source: &Source<'_>,
    window: &Window,
    stat: Stat,
) -> Result<Snapshot> {
    let limit = options.memory_limit;
    let mut progress = |done, total| options.report(done, total);
    let (copy, intact) = input::copy(source, window, stat, limit, &mut progress)?;
    Ok(match copy {
        Copy::Buffer(memory) => Snapshot::memory(memory, intact),
        Copy::Disk { region, delta, len } => Snapshot {
            intact,
            ..Snapshot::mapped(region, delta, len, Backing::Disk)
        },
    })
}

/// The bytes of a block device, which are copied whatever its size: anybody may write to it.
pub(super) fn take_device(
    options: &mut SnapshotOptions<'_>,
    source: &Source<'_>,
    position: u64,
) -> Result<Snapshot> {
    if options.must_map {
        return Err(Error::NotMappable {
            path: source.name(),
            what: "it is a block device",
        });
    }
    let window = Window::new(source, position, options.offset, options.len);
    let size = file::device_size(source.fd()).map_err(|e| source.error("lseek", e))?;
    let range = window.of(size)?;
    let limit = options.device_limit();
    if range.end - range.start > limit {
        return Err(Error::TooLarge {
            path: source.name(),
            limit,
        });
    }
    let stat = Stat {
        size,
        ..source.stat()?
    };
    let snapshot = copy(options, source, &window, stat)?;
    window.leave(source, range.start + snapshot.len() as u64)?;
    Ok(snapshot)
}

/// Maps a whole file on the caller's word.
pub(super) fn map_unguarded(source: &Source<'_>) -> Result<Snapshot> {
    let stat = source.stat()?;
    match stat.kind {
        Kind::Directory => Err(Error::IsDirectory {
            path: source.name(),
        }),
        Kind::Regular => {
            let options = SnapshotOptions::default().must_map(true);
            let mapped = map_range(
                &options,
                source,
                source.fd(),
                0..stat.size,
                Backing::Unguarded,
            )?;
            mapped.ok_or_else(|| Error::NotMappable {
                path: source.name(),
                what: "it has no pages",
            })
        }
        _ => Err(Error::NotMappable {
            path: source.name(),
            what: "it is not a regular file",
        }),
    }
}
