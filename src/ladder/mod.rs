//! The strategies for the bytes of an input, in the order in which they are tried: small files and streams are read; then
//! a mapping of a file that never changes, of a leased file, of a clone; at last a copy.
//!
//! `Snapshot` and `Private` make a [`Request`] and get [`Opened`] bytes. Each strategy is sound; they differ in cost.

mod map;
mod read;

pub(crate) use map::map_unguarded;

use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::held::Opened;
use crate::input::{Offset, Progress, Request, Source, Window, settled};
use crate::sys::file::{self, FileType, Stat};
use map::{Outcome, map};
use std::mem::MaybeUninit;
use std::path::Path;

/// Opens a path. A FIFO without a writer is not waited for if the request is bounded.
pub(crate) fn open_path(
    path: &Path,
    request: &Request,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let source = if request.is_bounded() {
        Source::open_nonblocking(path)?
    } else {
        Source::open(path)?
    };
    match read::at_once(&source, request, progress)? {
        Some(opened) => Ok(opened),
        None => open(source, request, progress),
    }
}

/// The bytes of an input, by the first strategy that fits.
pub(crate) fn open(
    source: Source<'_>,
    request: &Request,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let stat = source.stat_and_mount()?;
    if stat.kind == FileType::Directory {
        return Err(Error::is_directory(source.name().as_deref()));
    }
    settled::note(&source, &stat);
    // Errors of a mapping have no path yet.
    let opened = open_kind(&source, request, stat, progress);
    opened.map_err(|e| e.with_path(|| source.name()))
}

fn open_kind(
    source: &Source<'_>,
    request: &Request,
    stat: Stat,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let is_file = stat.kind == FileType::Regular;
    let has_size = is_file && stat.size > 0 && !is_size_wrong(source, &stat);
    if has_size && !source.uses_callers_offset() {
        return open_file(source, request, stat, 0, progress);
    }
    let Some(position) = source.position()? else {
        return read::stream(source, request, Offset::None, &[], progress);
    };
    let start = source.start(position);
    match stat.kind {
        FileType::Regular if has_size => open_file(source, request, stat, start, progress),
        FileType::Regular => open_unsized(source, request, start, progress),
        FileType::Block => read::device(source, request, start, progress),
        FileType::Other => {
            let offset = Offset::Descriptor(position);
            read::stream(source, request, offset, &[], progress)
        }
        _ => read::stream(source, request, Offset::None, &[], progress),
    }
}

/// True for a file that the kernel generates, and for one of a server that can be read behind the size that it reports, and
/// did not grow.
fn is_size_wrong(source: &Source<'_>, stat: &Stat) -> bool {
    let is_on =
        |system| FileSystem::from_stat(source.fd(), stat).is_ok_and(|found| found == system);
    let byte = &mut [MaybeUninit::uninit()];
    // With a device the size is known.
    stat.device_major() == 0
        && (stat.allocated == 0 && is_on(FileSystem::Kernel)
            || file::read_at(source.fd(), byte, stat.size).is_ok_and(|read| !read.is_empty())
                && is_on(FileSystem::Network)
                && source.stat().is_ok_and(|now| now.size == stat.size))
}

/// A file of size 0 or of a wrong one, which may have bytes all the same.
fn open_unsized(
    source: &Source<'_>,
    request: &Request,
    base: u64,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let opened = read::stream(source, request, Offset::Own(base), &[], progress)?;
    Window::new(base, request).advance(source, opened.bytes.len() as u64)?;
    Ok(opened)
}

fn open_file(
    source: &Source<'_>,
    request: &Request,
    stat: Stat,
    base: u64,
    progress: &mut Progress<'_>,
) -> Result<Opened> {
    let window = Window::new(base, request);
    let range = window.in_file(stat.size)?;
    let opened = match map(source, &window, stat, &range)? {
        Outcome::Mapped(opened) => opened,
        Outcome::MustCopy(reason) => {
            if !request.may_copy(range.end - range.start) {
                return Err(Error::not_mapped(source.name().as_deref(), reason));
            }
            read::copy(source, &window, stat, reason, progress)?
        }
    };
    window.advance(source, opened.bytes.len() as u64)?;
    Ok(opened)
}
