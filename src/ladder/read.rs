//! Inputs that are not mapped: small files, streams, block devices, and files that nothing protects.

use super::map::{addressable, map_window};
use crate::backing::Backing;
use crate::budget;
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::held::{Held, Opened};
use crate::input::settled::{self, Attempt};
use crate::input::{self, Copied, Offset, Progress, Request, Source, Window};
use crate::reason::Reason;
use crate::sys::file::{self, FifoState, FileType, Stat};
use std::os::fd::AsFd;

/// Reads an input that was just opened, if it is small and has not changed lately, or is a stream.
pub(super) fn at_once(
    source: &Source<'_>,
    request: &Request,
    progress: &mut Progress<'_>,
) -> Result<Option<Opened>> {
    if !request.is_unlimited() {
        return Ok(None);
    }
    let (buffer, reason) = match settled::attempt(source)? {
        Attempt::Whole(buffer) => (buffer, Reason::Small),
        Attempt::Stream(start) if start.len() == 0 => (start, Reason::Stream),
        Attempt::Stream(start) => {
            let opened = stream(source, request, Offset::None, start.bytes(), progress);
            return opened.map(Some).map_err(|e| e.with_path(|| source.name()));
        }
        Attempt::Failed => return Ok(None),
    };
    let len = buffer.len() as u64;
    if len > 0 {
        progress(len, Some(len)).map_err(|e| source.error("read", e))?;
    }
    Ok(Some(Opened {
        bytes: Held::buffer(buffer),
        is_consistent: true,
        reason: Some(reason),
    }))
}

/// The last strategy: copies the bytes.
pub(super) fn copy(
    source: &Source<'_>,
    window: &Window<'_>,
    stat: Stat,
    reason: Reason,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let (copy, is_consistent) = input::copy(source, window, stat, progress)?;
    Ok(Opened {
        bytes: held(source, window.request, copy)?,
        is_consistent,
        reason: Some(reason),
    })
}

/// A copy in an unnamed file is mapped.
fn held(source: &Source<'_>, request: &Request, copy: Copied) -> Result<Held> {
    let (file, start, len) = match copy {
        Copied::Memory(buffer) => return Ok(Held::buffer(buffer)),
        Copied::Disk { file, start, len } => (file, start, len),
    };
    let len = addressable(source, &(0..len))?;
    let mapped = map_window(file.as_fd(), start, len, request.access);
    let (region, offset_in_page) = mapped.map_err(|e| source.error("mmap", e))?;
    Ok(Held::mapped(region, offset_in_page, len, Backing::Disk))
}

/// A block device is copied, whatever its size: nothing keeps processes from writing to it.
pub(super) fn device(
    source: &Source<'_>,
    request: &Request,
    base: u64,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let name = || source.name();
    let window = Window::new(base, request);
    let stat = input::stat_with_size(source, FileType::Block)?;
    let range = window.in_file(stat.size)?;
    let len = range.end - range.start;
    if request.require_mapping || !request.may_copy(len) {
        return Err(Error::not_mapped(name().as_deref(), Reason::BlockDevice));
    }
    let is_limited = request.limits.size.or(request.limits.memory).is_some();
    if !is_limited && !request.spill && !budget::fits_memory(len, None) {
        let limit = budget::default_memory_limit();
        return Err(Error::too_large(name().as_deref(), limit));
    }
    let reason = Reason::BlockDevice;
    let opened = copy(source, &window, stat, reason, progress)?;
    window.advance(source, opened.bytes.len() as u64)?;
    Ok(opened)
}

pub(super) fn stream(
    source: &Source<'_>,
    request: &Request,
    offset: Offset,
    start: &[u8],
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let not_mapped = |reason| Error::not_mapped(source.name().as_deref(), reason);
    if request.require_mapping {
        return Err(not_mapped(Reason::Stream));
    }
    let copy = loop {
        let read = input::read_to_end(source, request, offset, start, progress);
        let is_empty = match &read {
            Err(Error::TooLarge { limit, .. }) if Some(*limit) == request.limits.copy => {
                return Err(not_mapped(Reason::Stream));
            }
            Err(Error::OutOfBounds { size, .. }) => *size == 0,
            read => read.as_ref().is_ok_and(|copy| copy.len() == 0),
        };
        if !is_empty || !source.is_nonblocking_fifo() {
            break read?;
        }
        // It was opened without waiting for a writer, and seemed to end at once.
        match file::fifo_state(source.fd()) {
            FifoState::NoWriter => return Err(not_mapped(Reason::NoWriter)),
            // A writer came after the read.
            FifoState::HasBytes if request.len != Some(0) => {}
            _ => break read?,
        }
    };
    let is_consistent = !is_written(source, copy.len())?;
    Ok(Opened {
        bytes: held(source, request, copy)?,
        is_consistent,
        reason: Some(Reason::Stream),
    })
}

/// True if another process wrote to the file meanwhile: its size was 0 when it was opened, and is not any more, or `len`
/// bytes were read. A file that the kernel generates has bytes, and always a size of 0.
fn is_written(source: &Source<'_>, len: u64) -> Result<bool> {
    let stat = source.stat()?;
    if stat.kind != FileType::Regular || stat.size == 0 && len == 0 {
        return Ok(false);
    }
    let is_real = || FileSystem::from_stat(source.fd(), &stat).map(FileSystem::has_sizes);
    let is_real = stat.size > 0 || is_real().map_err(|e| source.error("fstatfs", e))?;
    Ok(is_real)
}
