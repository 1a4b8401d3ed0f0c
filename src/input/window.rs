//! The part of an input that is opened.

use super::{Request, Source};
use crate::error::{Error, Result};
use crate::range::check_window;
use std::ops::Range;

/// A part of an input, as the caller specified it.
pub(crate) struct Window<'a> {
    /// Offset of the input in the file: 0, or the offset of the caller's descriptor. That of the request is counted from here.
    base: u64,
    pub(crate) request: &'a Request,
}

impl<'a> Window<'a> {
    pub(crate) fn new(base: u64, request: &'a Request) -> Self {
        Window { base, request }
    }

    /// The window as a range of a file of `size` bytes; an error if it has more bytes than the limit. Each time that the size
    /// is looked at, since the file may have grown.
    pub(crate) fn in_file(&self, size: u64) -> Result<Range<u64>> {
        // The offset of a descriptor may be past the end: then there are no bytes, which is no error.
        let rest = size.saturating_sub(self.base);
        let range = check_window(self.request.offset, self.request.window_len(), rest)?;
        let limit = self.request.limits.size;
        if let Some(limit) = limit.filter(|&limit| range.end - range.start > limit) {
            return Err(Error::too_large(None, limit));
        }
        Ok(self.base + range.start..self.base + range.end)
    }

    /// An error if fewer bytes were read than the window has: a stream ended before, the file was truncated meanwhile, or it
    /// has fewer bytes than its size, as files of /sys have.
    pub(crate) fn check_complete(&self, read: u64) -> Result<()> {
        let offset = self.request.offset;
        match self.request.window_len() {
            Some(len) if read < len => {
                let size = offset.saturating_add(read);
                Err(Error::out_of_bounds(offset, len, size))
            }
            _ => Ok(()),
        }
    }

    /// Moves the offset of the caller's descriptor past the `len` bytes that were read, as read(2) would.
    pub(crate) fn advance(&self, source: &Source<'_>, len: u64) -> Result<()> {
        if source.uses_callers_offset() {
            source.set_position(self.base + self.request.offset + len)?;
        }
        Ok(())
    }
}
