//! Input without a size, read to its end: pipes, FIFOs, sockets, terminals, devices, and files of reported size 0.

use super::unnamed::{SPACE_CHUNK, with_unnamed_file};
use super::{Copied, Progress, Request, Source, Window};
use crate::budget;
use crate::buffer::{ALIGN, Buffer};
use crate::error::{Error, Result};
use crate::space;
use crate::sys::{file, write};
use std::fs::File;
use std::os::fd::AsFd;

/// The capacity that a pipe is set to, in bytes: the most that an unprivileged process may set (pipe(7), `pipe-max-size`).
const PIPE_CAPACITY: i32 = 1 << 20;

/// The offset at which a stream is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offset {
    /// There is none.
    None,
    /// That of the descriptor, which is moved: a device may have no other.
    Descriptor(u64),
    /// That of a file, by pread(2): the descriptor's stays, also if the read fails.
    Own(u64),
}

/// A stream, and the offset of the next read if that is not the descriptor's.
struct Input<'a> {
    source: &'a Source<'a>,
    offset: Option<u64>,
}

/// Reads to the end, or `request.len` bytes. `start` are bytes that were read already.
pub(crate) fn read_to_end(
    source: &Source<'_>,
    request: &Request,
    offset: Offset,
    start: &[u8],
    progress: &mut Progress<'_>,
) -> Result<Copied> {
    // Only faster: it fails if this is not a pipe, or if it is not allowed.
    let _ = file::set_pipe_capacity(source.fd(), PIPE_CAPACITY);
    let mut limits = Limits::new(source, request);
    let (position, own) = match offset {
        Offset::None => (0, None),
        Offset::Descriptor(position) => (position, None),
        Offset::Own(position) => (position, Some(position)),
    };
    let mut input = Input {
        source,
        offset: own,
    };
    skip(&mut input, request, offset, &mut limits, progress)?;

    let first = position.wrapping_add(request.offset);
    let mut buffer = Buffer::for_stream(start)?.aligned_as(first);
    loop {
        // A read is not shortened to the limit: the bytes of a datagram that do not fit would be lost.
        let most = request.len.map_or(usize::MAX, |len| len - buffer.len());
        buffer.reserve(most)?;
        let read = input.read_some(&mut buffer, most)?;
        if read == 0 {
            break;
        }
        let done = buffer.len() as u64;
        limits.check_size(done)?;
        if let Some(limit) = limits.exceeded_memory(done, read) {
            if !request.spill {
                return Err(limits.too_large(limit));
            }
            return spill(
                &mut input,
                request,
                &buffer,
                &limits,
                first % ALIGN as u64,
                progress,
            );
        }
        progress(done, request.window_len()).map_err(|e| source.error("read", e))?;
    }
    window(request).check_complete(buffer.len() as u64)?;
    Ok(Copied::Memory(buffer.shrink_to_fit()))
}

/// The window, counted from the offset at which the stream is.
fn window(request: &Request) -> Window<'_> {
    Window::new(0, request)
}

impl Input<'_> {
    fn read_some(&mut self, buffer: &mut Buffer, most: usize) -> Result<usize> {
        let fd = self.source.fd();
        let n = buffer.read_from(most, |into| file::read(fd, into, self.offset));
        let n = n.map_err(|e| self.source.error("read", e))?;
        self.offset = self.offset.map(|offset| offset + n as u64);
        Ok(n)
    }

    /// Continues at another offset of a file, if there are bytes.
    fn jump(&mut self, to: u64, scratch: &mut Buffer) -> bool {
        scratch.clear();
        let read = scratch.read_from(usize::MAX, |into| file::read_at(self.source.fd(), into, to));
        let has_bytes = read.is_ok_and(|n| n > 0);
        if has_bytes {
            self.offset = Some(to);
        }
        has_bytes
    }
}

/// Skips the first `request.offset` bytes: by lseek(2) where there are offsets, else by reading. In a file they are read too,
/// to know where it ends, unless they cannot be read (memory of a process) or are many.
fn skip(
    input: &mut Input<'_>,
    request: &Request,
    from: Offset,
    limits: &mut Limits<'_>,
    progress: &mut Progress<'_>,
) -> Result<()> {
    let offset = request.offset;
    if offset == 0 {
        return Ok(());
    }
    let source = input.source;
    if let Offset::Descriptor(position) = from {
        let wanted = position.saturating_add(offset);
        if source.set_position(wanted)? == wanted {
            return Ok(());
        }
    }
    let mut scratch = Buffer::for_stream(&[])?;
    while limits.skipped < offset {
        let left = usize::try_from(offset - limits.skipped).unwrap_or(usize::MAX);
        scratch.clear();
        let read = input.read_some(&mut scratch, left);
        if let Offset::Own(position) = from {
            let is_far = read.is_err() || limits.skipped >= budget::UNCHECKED_MAX;
            if is_far && input.jump(position.saturating_add(offset), &mut scratch) {
                return Ok(());
            }
        }
        let n = read? as u64;
        if n == 0 {
            let len = request.window_len().unwrap_or(0);
            return Err(Error::out_of_bounds(offset, len, limits.skipped));
        }
        limits.skipped += n;
        limits.check_skipped()?;
        progress(0, request.window_len()).map_err(|e| source.error("read", e))?;
    }
    Ok(())
}

/// Continues in an unnamed file, from offset `lead` on: first the bytes in memory, then the rest.
fn spill(
    input: &mut Input<'_>,
    request: &Request,
    read: &Buffer,
    limits: &Limits<'_>,
    lead: u64,
    progress: &mut Progress<'_>,
) -> Result<Copied> {
    let source = input.source;
    let mut done = read.len() as u64;
    let start = |file: File| write::write_all_at(&file, read.bytes(), lead).map(|()| file);
    let file = with_unnamed_file(None, done, start)
        .map_err(|tried| Error::no_room(source.name().as_deref(), done, tried))?;
    let failed = |e| source.error("copy to an unnamed file", e);
    let mut chunk = Buffer::for_stream(&[])?;
    let mut checked = done;
    loop {
        progress(done, request.window_len()).map_err(failed)?;
        if done >= checked {
            // Checked in advance, so that the disk is never filled.
            space::check_free(file.as_fd(), SPACE_CHUNK).map_err(failed)?;
            checked = done + SPACE_CHUNK;
        }
        let left = request.window_len().map_or(u64::MAX, |len| len - done);
        chunk.clear();
        let most = usize::try_from(left).unwrap_or(usize::MAX);
        if input.read_some(&mut chunk, most)? == 0 {
            break;
        }
        write::write_all_at(&file, chunk.bytes(), lead + done).map_err(failed)?;
        done += chunk.len() as u64;
        limits.check_size(done)?;
    }
    window(request).check_complete(done)?;
    Ok(Copied::Disk {
        file,
        start: lead,
        len: done,
    })
}

/// The most bytes to read. The available memory is looked up only when there are many.
struct Limits<'a> {
    source: &'a Source<'a>,
    /// Bytes that were read for an offset.
    skipped: u64,
    total: Option<u64>,
    memory: Option<u64>,
    is_memory_given: bool,
    /// The caller's total replaces half of the memory as the default: all may be used, but for an eighth.
    may_use_most: bool,
}

impl<'a> Limits<'a> {
    fn new(source: &'a Source<'a>, request: &Request) -> Self {
        Limits {
            source,
            skipped: 0,
            total: request.stream_limit(),
            memory: request.limits.memory,
            is_memory_given: request.limits.memory.is_some(),
            may_use_most: request.stream_limit().is_some() && !request.spill,
        }
    }

    /// Endless input must not be skipped forever: the default is the limit for reading.
    fn check_skipped(&mut self) -> Result<()> {
        if self.total.is_none() && self.skipped >= budget::UNCHECKED_MAX {
            self.total = Some(budget::UNCHECKED_MAX.saturating_add(budget::default_memory_limit()));
        }
        self.check_size(0)
    }

    fn check_size(&self, done: u64) -> Result<()> {
        match self.total {
            Some(limit) if self.skipped + done > limit => Err(self.too_large(limit)),
            _ => Ok(()),
        }
    }

    /// The limit on memory, if `done` bytes are more, the last `read` of which are new.
    fn exceeded_memory(&mut self, done: u64, read: usize) -> Option<u64> {
        if !self.is_memory_given && !budget::take_memory(read) {
            return Some(done - read as u64);
        }
        if self.memory.is_none() && done >= budget::UNCHECKED_MAX {
            // The bytes that were read are not counted as available any more.
            let rest = if self.may_use_most {
                budget::most_memory()
            } else {
                budget::default_memory_limit()
            };
            self.memory = Some(done.saturating_add(rest));
        }
        self.memory.filter(|&limit| done > limit)
    }

    fn too_large(&self, limit: u64) -> Error {
        Error::too_large(self.source.name().as_deref(), limit)
    }
}
