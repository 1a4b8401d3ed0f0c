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
    /// What `start` is behind a multiple of `align`.
    lead: usize,
    align: usize,
    /// What was allocated, and for which layout; `None` for nothing.
    block: Option<(NonNull<u8>, Layout)>,
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
        let block = match layout(len.saturating_add(lead), align)? {
            None => None,
            Some(layout) => Some((sys::allocate(layout).ok_or_else(no_memory)?, layout)),
        };
        let start = match block {
            None => NonNull::new(std::ptr::without_provenance_mut(align)),
            Some((block, _)) => {
                let skipped = block.addr().get().next_multiple_of(align) - block.addr().get();
                // SAFETY: from the first multiple of `align` on, the layout has `lead` bytes and `len` more.
                #[allow(unsafe_code)]
                Some(unsafe { block.add(skipped + lead) })
            }
        };
        Ok(Buffer {
            start: start.unwrap_or(NonNull::dangling()),
            len,
            capacity: len,
            lead,
            align,
            block,
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

/// Room for `len` bytes from a multiple of `align` on; `None` for nothing. The heap has zeroed pages that take RAM when they
/// are touched, but only for the least alignment: for any other, `std` stores the zeros.
fn layout(len: usize, align: usize) -> Result<Option<Layout>> {
    let layout = if sys::has_own_pages(align) {
        Layout::from_size_align(len, align)
    } else {
        Layout::from_size_align(len.saturating_add(align - 1), 1)
    };
    let layout = layout.map_err(|_| Error::too_large_to_address(None))?;
    Ok((len > 0).then_some(layout))
}

fn no_memory() -> Error {
    Error::os("allocate memory", None, io::ErrorKind::OutOfMemory.into())
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some((block, layout)) = self.block {
            // SAFETY: allocated by `zeroed_for` with the same layout, and no borrow is left.
            #[allow(unsafe_code)]
            unsafe {
                sys::release(block, layout);
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
