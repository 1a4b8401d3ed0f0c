//! Faults pages in.

use super::advice::Advice;
use super::span::chunks;
use crate::{budget, page, sys};
use std::io;
use std::ops::Range;

/// The most bytes in one system call that faults pages in. Other threads can map and unmap between two calls. A multiple
/// of the size of a huge page.
pub(super) const POPULATE_CHUNK: usize = 16 << 20;

/// Bytes in one `MADV_WILLNEED`, the largest and the smallest. The kernel cuts a range down to the readahead of the
/// device or its largest request, whichever is more, and does not report it. Devices were fastest with 4 MiB; every
/// device takes 128 KiB.
const READAHEAD_MAX: usize = 4 << 20;
const READAHEAD_MIN: usize = 128 << 10;

/// Smaller ranges are not worth a thread, which takes as long to start as they take to read.
pub(super) const BACKGROUND_MIN: usize = 2 << 20;

/// Faults in one chunk of pages, by [`Advice::PopulateRead`] or [`Advice::PopulateWrite`]; before Linux 5.14 it only starts
/// reading.
pub(super) fn fault_in(chunk: Range<usize>, advice: Advice) -> io::Result<()> {
    match sys::pages::advise(chunk.clone(), advice.code()) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) && !advice.is_supported() => {
            sys::pages::advise(chunk, Advice::WillNeed.code())
        }
        done => done,
    }
}

/// Starts reading all of these pages in: in large pieces, then in ever smaller ones, for the pages that the kernel has left
/// out of the larger pieces. Pages that are in RAM take a twentieth of the time that reading them took.
pub(super) fn read_ahead(pages: Range<usize>) -> io::Result<()> {
    for chunk in chunks(pages, READAHEAD_MAX) {
        let mut size = READAHEAD_MAX;
        while size >= READAHEAD_MIN {
            chunks(chunk.clone(), size)
                .try_for_each(|piece| sys::pages::advise(piece, Advice::WillNeed.code()))?;
            size /= 2;
        }
    }
    Ok(())
}

/// The first of these pages that fit in memory: further ones would evict them before they are used.
pub(super) fn fitting_memory(pages: Range<usize>) -> Range<usize> {
    if pages.len() as u64 <= budget::UNCHECKED_MAX {
        return pages;
    }
    let room = usize::try_from(budget::default_memory_limit()).unwrap_or(usize::MAX);
    let len = pages.len().min(page::align_down(room));
    pages.start..pages.start + len
}
