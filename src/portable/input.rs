//! Inputs: a window of a file, or a stream to its end. A large file is mapped where the platform can lock it.

use super::bytes::Bytes;
use super::locked::Locked;
use super::memory::{Buffer, CACHE_LINE};
use crate::error::{Error, Result};
use crate::range::check_window;
use crate::reason::Reason;
use crate::sys::{self, Protection};
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

/// Bytes per read.
const READ_CHUNK: usize = 1 << 20;

/// A file of at most this size, in bytes, counts as small, as on Linux.
const SMALL_MAX: u64 = 1 << 20;

/// Default limit for a stream, in bytes: `std` does not report the available memory.
const STREAM_DEFAULT_MAX: u64 = 1 << 30;

/// The options of an open.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub(super) offset: u64,
    pub(super) len: Option<usize>,
    pub(super) limit: Option<u64>,
    pub(super) memory_limit: Option<u64>,
    pub(super) copy_limit: Option<u64>,
    pub(super) require_mapping: bool,
    pub(super) populate: bool,
    /// What a view would be for; `None` to have the bytes read.
    pub(super) view: Option<Protection>,
}

/// Bytes that were read or mapped.
pub(super) struct Opened {
    pub(super) bytes: Bytes,
    /// False if the file changed meanwhile.
    pub(super) is_consistent: bool,
    /// Why they are not mapped.
    pub(super) reason: Option<Reason>,
}

pub(super) type Progress<'p> = dyn FnMut(u64, Option<u64>) + 'p;

/// Where in the file the input starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Start,
    /// At the offset of the descriptor, which is moved as by reading.
    Offset,
}

/// Types that give access to a [`File`]: on Unix anything with a descriptor, elsewhere a [`File`].
#[allow(unreachable_pub, reason = "a bound of public functions")]
pub trait AsFile {
    /// Calls `f` with the file.
    #[doc(hidden)]
    fn with_file<T>(&self, f: impl FnOnce(&File) -> T) -> io::Result<T>;
}

impl<F: sys::Handle> AsFile for F {
    fn with_file<T>(&self, f: impl FnOnce(&File) -> T) -> io::Result<T> {
        let file = sys::file_of(self)?;
        Ok(f(&file))
    }
}

pub(super) fn open_path(
    path: &Path,
    request: &Request,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let file = match File::open(path) {
        Ok(file) => file,
        // Windows opens no directory.
        Err(_) if path.is_dir() => return Err(Error::is_directory(Some(path))),
        Err(e) => return Err(Error::os("open", Some(path), e)),
    };
    read_file(&file, From::Offset, request, progress).map_err(|e| e.with_path(|| Some(path.into())))
}

/// The bytes of `file`.
pub(super) fn open_file<F: AsFile>(
    file: &F,
    from: From,
    request: &Request,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let opened = file.with_file(|file| read_file(file, from, request, progress));
    opened.map_err(|e| Error::os("dup", None, e))?
}

/// The rest of standard input.
pub(super) fn open_stdin(request: &Request, progress: &mut Progress<'_>) -> Result<Opened> {
    match sys::stdin().map_err(|e| Error::os("dup", None, e))? {
        Some(file) => read_file(&file, From::Offset, request, progress),
        None => read_stream(&mut io::stdin().lock(), request, progress),
    }
}

fn read_file(
    mut file: &File,
    from: From,
    request: &Request,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    // Windows knows nothing of a console.
    let before = match file.metadata() {
        Ok(before) if !sys::is_stream(file) => before,
        _ => return read_stream(&mut Stream(file), request, progress),
    };
    if before.is_dir() {
        return Err(Error::is_directory(None));
    }
    let position = match file.stream_position() {
        Ok(position) if before.is_file() => position,
        _ => return read_stream(&mut Stream(file), request, progress),
    };
    if before.len() == 0 {
        return read_unsized(file, position, from, request, progress);
    }
    let base = if from == From::Start { 0 } else { position };
    let window = check_size(request, base, before.len())?;
    let len = window.end - window.start;
    let reason = if len <= SMALL_MAX {
        Reason::Small
    } else {
        match map(file, base, request, progress)? {
            Ok((opened, end)) => {
                if from == From::Offset {
                    set_position(file, end)?;
                }
                return Ok(opened);
            }
            Err(reason) => reason,
        }
    };
    check_limits(request, len, reason)?;
    let len = usize::try_from(len).map_err(|_| Error::too_large_to_address(None))?;
    let mut memory = Buffer::zeroed_for(window.start, len, CACHE_LINE)?;
    let read = read_window(file, request, window.start, &mut memory, progress);
    // The caller's offset is behind what was read; it stays where it was if that is not wanted, or has failed.
    let end = match (&read, from) {
        (Ok(_), From::Offset) => window.start + memory.len() as u64,
        _ => position,
    };
    if sys::READ_AT_MOVES_OFFSET || end != position {
        set_position(file, end)?;
    }
    let after = read?;
    Ok(Opened {
        is_consistent: memory.len() == len && is_same_version(&before, &after),
        bytes: Bytes::Memory(memory),
        reason: Some(reason),
    })
}

/// Fills `memory`, or makes it shorter if the file ends before. Returns what the file is like afterwards.
fn read_window(
    file: &File,
    request: &Request,
    offset: u64,
    memory: &mut Buffer,
    progress: &mut Progress<'_>,
) -> Result<Metadata> {
    let done = read_chunks(file, offset, memory, progress)?;
    check_complete(request, done)?;
    memory.resize(done)?;
    metadata(file)
}

/// A file that says it is empty, and may have bytes all the same.
fn read_unsized(
    file: &File,
    position: u64,
    from: From,
    request: &Request,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    if from == From::Start {
        set_position(file, 0)?;
    }
    let opened = read_stream(&mut Stream(file), request, progress);
    if from == From::Start || opened.is_err() {
        set_position(file, position)?;
    }
    opened
}

/// A descriptor that may be in non-blocking mode, and is waited for.
struct Stream<'a>(&'a File);

impl Read for Stream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        sys::read(self.0, into)
    }
}

/// An error if less was read than the window has.
fn check_complete(request: &Request, read: usize) -> Result<()> {
    match request.len {
        Some(len) if read < len => {
            let size = request.offset.saturating_add(read as u64);
            Err(Error::out_of_bounds(request.offset, len as u64, size))
        }
        _ => Ok(()),
    }
}

/// The window of a file of `size` bytes.
fn check_size(request: &Request, base: u64, size: u64) -> Result<Range<u64>> {
    let start = base.saturating_add(request.offset);
    let len = request.len.map(|len| len as u64);
    let window = check_window(start, len, size.max(base))?;
    match request.limit {
        Some(limit) if window.end - window.start > limit => Err(Error::too_large(None, limit)),
        _ => Ok(window),
    }
}

/// A view of the window, and where in the file it ends; or why there is none.
fn map(
    file: &File,
    base: u64,
    request: &Request,
    progress: &mut Progress<'_>,
) -> Result<std::result::Result<(Opened, u64), Reason>> {
    let Some(access) = request.view else {
        return Ok(Err(Reason::NotAsked));
    };
    let locked = match Locked::lock(file) {
        Ok(locked) => locked,
        Err(reason) => return Ok(Err(reason)),
    };
    // The size may have changed before the file was locked.
    let window = check_size(request, base, metadata(locked.file())?.len())?;
    let len = match usize::try_from(window.end - window.start) {
        Ok(0) => return Ok(Err(Reason::Small)),
        len => len.map_err(|_| Error::too_large_to_address(None))?,
    };
    if request.populate {
        // A device that fails gives an error here, and an exception in a view.
        let mut scratch = Buffer::zeroed(len.min(READ_CHUNK), CACHE_LINE)?;
        read_over(locked.file(), window.clone(), &mut scratch, progress)?;
    }
    let Ok(view) = locked.view(window.start, len, access) else {
        return Ok(Err(Reason::Mappings));
    };
    let opened = Opened {
        bytes: Bytes::Locked(view),
        is_consistent: true,
        reason: None,
    };
    Ok(Ok((opened, window.end)))
}

/// Reads a window, so that it is in the cache of the system.
fn read_over(
    file: &File,
    window: Range<u64>,
    scratch: &mut [u8],
    progress: &mut Progress<'_>,
) -> Result<()> {
    let total = window.end - window.start;
    let mut done = 0;
    while done < total {
        match retry(|| sys::read_at(file, scratch, window.start + done))? {
            0 => break,
            n => done = total.min(done + n as u64),
        }
        progress(done, Some(total));
    }
    Ok(())
}

fn set_position(mut file: &File, position: u64) -> Result<()> {
    let moved = file.seek(SeekFrom::Start(position));
    moved.map(drop).map_err(|e| Error::os("lseek", None, e))
}

fn metadata(file: &File) -> Result<Metadata> {
    file.metadata().map_err(|e| Error::os("fstat", None, e))
}

fn is_same_version(before: &Metadata, after: &Metadata) -> bool {
    before.len() == after.len() && before.modified().ok() == after.modified().ok()
}

fn check_limits(request: &Request, len: u64, reason: Reason) -> Result<()> {
    let may_copy = len <= request.copy_limit.unwrap_or(u64::MAX);
    if !may_copy || (request.require_mapping && reason != Reason::Small) {
        return Err(Error::not_mapped(None, reason));
    }
    match request.memory_limit {
        Some(limit) if len > limit => Err(Error::too_large(None, limit)),
        _ => Ok(()),
    }
}

/// Reads until `memory` is full or the file ends; how many bytes that were.
fn read_chunks(
    file: &File,
    offset: u64,
    memory: &mut [u8],
    progress: &mut Progress<'_>,
) -> Result<usize> {
    let total = memory.len();
    let mut done = 0;
    while done < total {
        let end = total.min(done + READ_CHUNK);
        match retry(|| sys::read_at(file, &mut memory[done..end], offset + done as u64))? {
            0 => break,
            n => done += n,
        }
        progress(done as u64, Some(total as u64));
    }
    Ok(done)
}

fn retry(mut read: impl FnMut() -> io::Result<usize>) -> Result<usize> {
    loop {
        match read() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(|e| Error::os("read", None, e)),
        }
    }
}

/// A pipe, a console, or a file that has no size: read to its end, or as far as the window goes.
fn read_stream(
    input: &mut dyn Read,
    request: &Request,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    // What is skipped takes no memory, but counts as input: endless input is not skipped for ever.
    let kept = request.memory_limit.unwrap_or(u64::MAX);
    let default = STREAM_DEFAULT_MAX.max(request.memory_limit.unwrap_or(0));
    let limits = [request.limit, request.copy_limit].into_iter().flatten();
    let limit = limits.min().unwrap_or(default);
    if request.require_mapping {
        return Err(Error::not_mapped(None, Reason::Stream));
    }
    let too_large = || match request.copy_limit {
        Some(copied) if copied == limit => Error::not_mapped(None, Reason::Stream),
        _ => Error::too_large(None, limit),
    };
    let skipped = skip(input, request, limit)?;
    if skipped > limit {
        return Err(too_large());
    }
    let total = request.len.map(|len| len as u64);
    let mut memory = Buffer::zeroed_for(request.offset, 0, CACHE_LINE)?;
    while request.len != Some(memory.len()) {
        let done = memory.len();
        let wanted = request
            .len
            .map_or(READ_CHUNK, |len| (len - done).min(READ_CHUNK));
        memory.grow(wanted, request.len.unwrap_or(usize::MAX))?;
        let n = retry(|| input.read(&mut memory[done..]))?;
        memory.resize(done + n)?;
        if skipped + memory.len() as u64 > limit {
            return Err(too_large());
        }
        if memory.len() as u64 > kept {
            return Err(Error::too_large(None, kept));
        }
        if n == 0 {
            break;
        }
        progress(memory.len() as u64, total);
    }
    check_complete(request, memory.len())?;
    Ok(Opened {
        bytes: Bytes::Memory(memory),
        is_consistent: true,
        reason: Some(Reason::Stream),
    })
}

/// Reads over the bytes before the window, or over more than the limit. Returns how many.
fn skip(input: &mut dyn Read, request: &Request, limit: u64) -> Result<u64> {
    let mut scratch =
        vec![0; READ_CHUNK.min(usize::try_from(request.offset).unwrap_or(READ_CHUNK))];
    let mut left = request.offset;
    while left > 0 && request.offset - left <= limit {
        let step = scratch
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = retry(|| input.read(&mut scratch[..step]))? as u64;
        if n == 0 {
            let size = request.offset - left;
            return Err(Error::out_of_bounds(
                request.offset,
                request.len.unwrap_or(0) as u64,
                size,
            ));
        }
        left -= n;
    }
    Ok(request.offset - left)
}
