//! Zeroed memory at a chosen alignment.

use super::pages::{Kind, Pages};
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use crate::sys;
use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;

/// The alignment of bytes that were read: a cache line.
pub(super) const CACHE_LINE: usize = 64;

/// Zeroed bytes. If the allocator has no memory, it is an error.
pub(super) struct Buffer {
    start: NonNull<u8>,
    len: usize,
    /// Bytes allocated from `start` on, all of them initialised.
    capacity: usize,
    /// Bytes allocated before `start`.
    lead: usize,
    align: usize,
}

// SAFETY: the value owns its bytes, as a `Vec<u8>` does.
#[allow(unsafe_code)]
unsafe impl Send for Buffer {}
// SAFETY: as above; `&Buffer` changes no byte.
#[allow(unsafe_code)]
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `align` is a power of two.
    pub(super) fn zeroed(len: usize, align: usize) -> Result<Self> {
        Buffer::zeroed_for(0, len, align)
    }

    /// Bytes of a file from `offset` on: their address has the remainder modulo `align` that the offset has, as if the file
    /// were mapped.
    pub(super) fn zeroed_for(offset: u64, len: usize, align: usize) -> Result<Self> {
        let lead = offset as usize % align;
        let start = match layout(len.saturating_add(lead), align)? {
            None => {
                let start = std::ptr::without_provenance_mut(align);
                NonNull::new(start).unwrap_or(NonNull::dangling())
            }
            Some(layout) => sys::allocate(layout).ok_or_else(no_memory)?,
        };
        Ok(Buffer {
            // SAFETY: the layout has `lead` bytes and `len` more; where it is empty, `lead` is 0.
            #[allow(unsafe_code)]
            start: unsafe { start.add(lead) },
            len,
            capacity: len,
            lead,
            align,
        })
    }

    pub(super) fn kind(&self) -> Kind {
        if sys::has_own_pages(self.align) {
            Kind::Own
        } else {
            Kind::Heap
        }
    }

    pub(super) fn pages(&self) -> Pages<'_> {
        Pages::new(self, self.kind())
    }

    /// Makes it longer or shorter. Bytes that are new are zero; the others stay, at another address perhaps.
    pub(super) fn resize(&mut self, len: usize) -> Result<()> {
        if len > self.capacity {
            let mut larger = Buffer::zeroed_for(self.lead as u64, len, self.align)?;
            larger[..self.len].copy_from_slice(self);
            *self = larger;
            return Ok(());
        }
        if len < self.len {
            self[len..].fill(0);
        }
        self.len = len;
        Ok(())
    }

    /// Makes room for `more` bytes, zeroed; at least half as much again as there is, so that many calls are cheap.
    pub(super) fn grow(&mut self, more: usize, limit: usize) -> Result<()> {
        let len = self.len.saturating_add(more);
        let ahead = len.max(self.len.saturating_add(self.len / 2)).min(limit);
        let room = self.len;
        if ahead > self.capacity {
            self.resize(ahead.max(len))?;
            self.len = room;
        }
        self.resize(len)
    }
}

/// `None` for nothing.
fn layout(len: usize, align: usize) -> Result<Option<Layout>> {
    let layout = Layout::from_size_align(len, align);
    let layout = layout.map_err(|_| Error::too_large_to_address(None))?;
    Ok((layout.size() > 0).then_some(layout))
}

fn no_memory() -> Error {
    Error::os("allocate memory", None, io::ErrorKind::OutOfMemory.into())
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Ok(Some(layout)) = layout(self.lead + self.capacity, self.align) {
            // SAFETY: `zeroed_for` allocated `lead` bytes before `start`.
            #[allow(unsafe_code)]
            let allocated = unsafe { self.start.sub(self.lead) };
            // SAFETY: allocated by `zeroed_for` with the same layout, and no borrow is left.
            #[allow(unsafe_code)]
            unsafe {
                sys::release(allocated, layout);
            }
        }
    }
}

// SAFETY: `capacity` bytes from `start` on are allocated and were zeroed, `len` is at most that, and the value owns them.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Buffer {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        (self.start, self.len)
    }
}

impl_byte_slice!(Buffer, debug:);
impl_byte_slice_mut!(Buffer);
