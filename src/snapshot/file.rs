//! What has a size: regular files and block devices, by the rungs from "small" on.

use super::options::SnapshotOptions;
use super::{Backing, Snapshot};
use crate::error::{Error, Result};
use crate::region::{Region, check_window};
use crate::replica::Memory;
use crate::source::Source;
use crate::sys::file::{self, Kind, Stat, Time};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Files up to this size are read rather than mapped, in bytes.
const READ_MAX: u64 = 256 << 10;

/// The first read of a file that nothing is known of yet, in bytes: most source files and configurations fit.
const AT_ONCE: usize = 16 << 10;

/// A copy is tried again if the file changed meanwhile, unless so many bytes make that expensive.
const RETRY_MAX: u64 = 64 << 20;
const ATTEMPTS: u32 = 3;

/// The short cut for small regular files: one read, then one fstat that says whether it was all. `started` is the
/// time before the read: a file whose ctime is older was not written to while it was read. `None`: ask the ladder.
pub(super) fn read_at_once(source: &Source<'_>, started: Time) -> Result<Option<Snapshot>> {
    let mut bytes = [MaybeUninit::uninit(); AT_ONCE];
    // pread, not read: a pipe refuses it (ESPIPE) and loses no byte.
    let Ok(n) = file::read_at(source.fd(), &mut bytes, 0) else {
        return Ok(None);
    };
    if n == 0 || n == bytes.len() {
        return Ok(None);
    }
    let stat = source.stat()?;
    let all = stat.kind == Kind::Regular && stat.size == n as u64 && stat.changed() < started;
    if !all {
        return Ok(None);
    }
    let mut memory = Memory::with_capacity(n)?;
    let copied = memory.read_from(n, |into| {
        into[..n].copy_from_slice(&bytes[..n]);
        Ok(n)
    });
    copied.map_err(|e| source.error("pread", e))?;
    Ok(Some(Snapshot::memory(memory, true)))
}

/// The bytes of a regular file.
pub(super) fn take(
    options: &mut SnapshotOptions<'_>,
    source: &Source<'_>,
    stat: Stat,
    position: u64,
) -> Result<Snapshot> {
    let window = Window::new(options, source, position);
    let range = window.of(stat.size)?;
    let snapshot = match take_range(options, source, stat, &window, range.clone())? {
        Some(mapped) => mapped,
        None => copy(options, source, &window, stat)?,
    };
    window.leave(source, range.start + snapshot.len() as u64)?;
    Ok(snapshot)
}

/// The rungs that map; `None` if the bytes have to be read or copied.
fn take_range(
    options: &SnapshotOptions<'_>,
    source: &Source<'_>,
    stat: Stat,
    window: &Window,
    range: Range<u64>,
) -> Result<Option<Snapshot>> {
    let size = range.end - range.start;
    let Ok(len) = usize::try_from(size) else {
        return Err(Error::TooLarge {
            path: source.name(),
            limit: isize::MAX as u64,
        });
    };
    if len == 0 || (size <= READ_MAX && !options.must_map) {
        return Ok(None);
    }
    let _ = (stat, window);
    let fd = source.fd();
    if file::is_sealed(fd) || file::is_verity(fd) {
        return map(options, source, range.start, len, Backing::Sealed).map(Some);
    }
    if options.must_map {
        return Err(Error::NotMappable {
            path: source.name(),
            what: "nothing would keep its bytes from changing",
        });
    }
    Ok(None)
}

fn map(
    options: &SnapshotOptions<'_>,
    source: &Source<'_>,
    offset: u64,
    len: usize,
    backing: Backing,
) -> Result<Snapshot> {
    let mapped = Region::file(source.fd(), offset, len);
    let (region, delta) = mapped.map_err(|e| source.error("mmap", e))?;
    if options.populate {
        populate(&region, source)?;
    }
    Ok(Snapshot::mapped(region, delta, len, backing))
}

/// Faults every page in; a device error is an `Err` here and would be a signal later.
fn populate(region: &Region, source: &Source<'_>) -> Result<()> {
    match region.advise(0..region.len(), libc::MADV_POPULATE_READ) {
        // Linux before 5.14: the pages come when they are touched.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other.map_err(|e| source.error("madvise", e)),
    }
}

/// Reads the window into memory, again if the file changed meanwhile.
fn copy(
    options: &mut SnapshotOptions<'_>,
    source: &Source<'_>,
    window: &Window,
    mut before: Stat,
) -> Result<Snapshot> {
    let mut attempt = 1;
    loop {
        let range = window.of(before.size)?;
        let len = range.end - range.start;
        if len > READ_MAX && len > options.memory_limit_or_default() {
            return Err(Error::TooLarge {
                path: source.name(),
                limit: options.memory_limit_or_default(),
            });
        }
        let memory = read_range(options, source, range.clone())?;
        let after = source.stat()?;
        let intact = after.stamp == before.stamp;
        if intact || attempt == ATTEMPTS || len > RETRY_MAX {
            window.check_read(memory.len() as u64, &range)?;
            return Ok(Snapshot::memory(memory, intact));
        }
        attempt += 1;
        before = after;
    }
}

/// Reads a range, or less of it if the file ends before.
fn read_range(
    options: &mut SnapshotOptions<'_>,
    source: &Source<'_>,
    range: Range<u64>,
) -> Result<Memory> {
    let total = range.end - range.start;
    let len = usize::try_from(total).unwrap_or(usize::MAX);
    let mut memory = Memory::with_capacity(len)?;
    while memory.len() < len {
        let offset = range.start + memory.len() as u64;
        let most = len - memory.len();
        let n = memory.read_from(most, |into| file::read_at(source.fd(), into, offset));
        if n.map_err(|e| source.error("pread", e))? == 0 {
            break;
        }
        options.report(memory.len() as u64, Some(total));
    }
    memory.finish()
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
    let window = Window::new(options, source, position);
    let size = file::device_size(source.fd()).map_err(|e| source.error("lseek", e))?;
    let range = window.of(size)?;
    let limit = match options.has_stream_limit() {
        true => options.stream_limit(),
        false => options.memory_limit_or_default(),
    };
    if range.end - range.start > limit {
        return Err(Error::TooLarge {
            path: source.name(),
            limit,
        });
    }
    let memory = read_range(options, source, range.clone())?;
    window.check_read(memory.len() as u64, &range)?;
    window.leave(source, range.start + memory.len() as u64)?;
    Ok(Snapshot::memory(memory, true))
}

/// Maps a whole file on the caller's word.
pub(super) fn map_unguarded(source: &Source<'_>) -> Result<Snapshot> {
    let stat = source.stat()?;
    match (stat.kind, usize::try_from(stat.size)) {
        (Kind::Directory, _) => Err(Error::IsDirectory {
            path: source.name(),
        }),
        (Kind::Regular, Ok(0)) => {
            let nothing = Region::empty();
            Ok(Snapshot::mapped(nothing, 0, 0, Backing::Unguarded))
        }
        (Kind::Regular, Ok(len)) => map(
            &SnapshotOptions::default(),
            source,
            0,
            len,
            Backing::Unguarded,
        ),
        _ => Err(Error::NotMappable {
            path: source.name(),
            what: "it is not a regular file",
        }),
    }
}

/// Which bytes of the input are wanted.
struct Window {
    /// Where the input starts: 0, or the offset of the caller's descriptor.
    base: u64,
    offset: u64,
    len: Option<u64>,
}

impl Window {
    fn new(options: &SnapshotOptions<'_>, source: &Source<'_>, position: u64) -> Self {
        Window {
            base: if source.is_borrowed() { position } else { 0 },
            offset: options.offset,
            len: options.len.map(|len| len as u64),
        }
    }

    /// The window as a range of a file of `size` bytes.
    fn of(&self, size: u64) -> Result<Range<u64>> {
        // A descriptor may stand behind the end: there is nothing to read then, and that is no error.
        let rest = size.saturating_sub(self.base);
        let range = check_window(self.offset, self.len, rest)?;
        Ok(self.base + range.start..self.base + range.end)
    }

    /// A file may have fewer bytes than it says (those of /sys do): an error if a window was asked for.
    fn check_read(&self, read: u64, range: &Range<u64>) -> Result<()> {
        match self.len {
            Some(len) if read < len => Err(Error::OutOfBounds {
                offset: self.offset,
                len,
                size: range.start - self.base + read,
            }),
            _ => Ok(()),
        }
    }

    /// Leaves the caller's descriptor behind the bytes that were taken.
    fn leave(&self, source: &Source<'_>, end: u64) -> Result<()> {
        match source.is_borrowed() {
            true => source.set_position(end),
            false => Ok(()),
        }
    }
}
