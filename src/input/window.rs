//! The part of an input that is opened.

use super::{Request, Source};
use crate::error::{Error, Result};
use crate::range::check_window;
use std::ops::Range;

/// A part of an input, as the caller specified it.
pub(crate) struct Window {
    /// Offset of the input in the file: 0, or the offset of the caller's descriptor.
    base: u64,
    /// From `base` on.
    offset: u64,
    /// `None`: up to the end.
    len: Option<u64>,
    /// The most bytes.
    limit: Option<u64>,
}

impl Window {
    pub(crate) fn new(base: u64, request: &Request) -> Self {
        Window {
            base,
            offset: request.offset,
            len: request.window_len(),
            limit: request.limits.size,
        }
    }

    /// The window as a range of a file of `size` bytes; an error if it has more bytes than the limit. Each time that the size
    /// is looked at, since the file may have grown.
    pub(crate) fn in_file(&self, size: u64) -> Result<Range<u64>> {
        // The offset of a descriptor may be past the end: then there are no bytes, which is no error.
        let rest = size.saturating_sub(self.base);
        let range = check_window(self.offset, self.len, rest)?;
        if let Some(limit) = self.limit.filter(|&limit| range.end - range.start > limit) {
            return Err(Error::too_large(None, limit));
        }
        Ok(self.base + range.start..self.base + range.end)
    }

    /// An error if fewer bytes were read than the window has: a stream ended before, the file was truncated meanwhile, or it
    /// has fewer bytes than its size, as files of /sys have.
    pub(crate) fn check_complete(&self, read: u64) -> Result<()> {
        match self.len {
            Some(len) if read < len => {
                let size = self.offset.saturating_add(read);
                Err(Error::out_of_bounds(self.offset, len, size))
            }
            _ => Ok(()),
        }
    }

    /// Moves the offset of the caller's descriptor past the `len` bytes that were read, as read(2) would.
    pub(crate) fn advance(&self, source: &Source<'_>, len: u64) -> Result<()> {
        if source.uses_callers_offset() {
            source.set_position(self.base + self.offset + len)?;
        }
        Ok(())
    }
}
