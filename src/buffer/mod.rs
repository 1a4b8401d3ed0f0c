//! An owned buffer of bytes: a block of the heap or of a slab when small, an anonymous mapping with huge pages when large.
//!
//! A page fault for each 4 KiB costs more than the copy that fills it. A huge page takes one fault for 512 of them.
#![allow(unsafe_code)]

mod block;
mod heap;
mod parallel;
mod slab;

use crate::error::Result;
use crate::page;
use crate::pages::Pages;
use crate::region::Region;
use block::{Block, READ_ALWAYS_MAX};
pub(crate) use heap::ALIGN;
use parallel::{Progress, read_parallel};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// A file of at most this size, in bytes, is read while [`LARGE_HELD_MAX`] is not exceeded. [`READ_ALWAYS_MAX`] has the
/// measurement.
pub(crate) const READ_MAX: usize = 1 << 20;

/// The most bytes in all blocks of more than [`READ_ALWAYS_MAX`], with the next one. A program that keeps its files reads two
/// of 1 MiB before it leases, which costs as much as leasing four. Eight threads that drop each file of 256 KiB before the
/// next read them all.
const LARGE_HELD_MAX: usize = 2 << 20;

/// True if reading `len` bytes of a file costs less than mapping them.
pub(crate) fn is_reading_faster(len: u64) -> bool {
    let is_reused = || Block::large_bytes() as u64 + len <= LARGE_HELD_MAX as u64;
    len <= READ_ALWAYS_MAX as u64 || (len <= READ_MAX as u64 && is_reused())
}

/// Returns the memory that is kept for the next blocks to the kernel.
pub(crate) fn release_unused() {
    slab::release_warm();
}

/// A larger buffer gets a mapping of its own.
const BLOCK_MAX: usize = 1 << 20;

/// Minimum space for one read of a stream, in bytes. Message-oriented sockets discard what does not fit.
const DATAGRAM_MAX: usize = 64 << 10;

/// First size of the buffer for a stream of unknown length: what a pipe holds by default, and a datagram after that.
const STREAM_BLOCK: usize = 2 * DATAGRAM_MAX;

/// Bytes per read. At this size the cost of the system call is small, and the bytes are still in the cache of the processor
/// when they are used.
const READ_CHUNK: usize = 512 << 10;

/// Bytes that were read, and capacity for more.
pub(crate) struct Buffer {
    storage: Storage,
    /// Where the bytes start in `storage`, less than [`ALIGN`].
    lead: usize,
    len: usize,
}

enum Storage {
    Block(Block),
    Region(Region),
}

impl Buffer {
    /// Capacity for `len` bytes.
    pub(crate) fn with_capacity(len: usize) -> Result<Self> {
        let storage = if len <= BLOCK_MAX {
            Storage::Block(Block::with_capacity(len)?)
        } else {
            Storage::Region(Region::with_huge_pages(whole_huge_pages(len))?)
        };
        Ok(Buffer {
            storage,
            lead: 0,
            len: 0,
        })
    }

    /// Capacity for `len` bytes from an offset of a file on, see [`aligned_as`](Buffer::aligned_as).
    pub(crate) fn for_range(offset: u64, len: usize) -> Result<Self> {
        let capacity = len.saturating_add(lead(offset));
        Ok(Buffer::with_capacity(capacity)?.aligned_as(offset))
    }

    /// The address of the first byte will have the remainder modulo [`ALIGN`] that `offset` has, as if the file were mapped:
    /// then a cast to a larger type succeeds for both or for none. Takes as much of the capacity.
    pub(crate) fn aligned_as(mut self, offset: u64) -> Self {
        debug_assert!(self.len == 0 || lead(offset) == 0);
        self.lead = lead(offset).min(self.capacity());
        self
    }

    /// Capacity for the next bytes of a stream of unknown length, after a copy of those that were read.
    pub(crate) fn for_stream(read: &[u8]) -> Result<Self> {
        let mut buffer = Buffer::with_capacity(STREAM_BLOCK.max(read.len()))?;
        buffer.push(read);
        Ok(buffer)
    }

    /// The first `len` bytes of an anonymous mapping, which are not changed from here on.
    pub(crate) fn from_region(region: Region, len: usize) -> Self {
        debug_assert!(len <= region.len());
        let storage = Storage::Region(region);
        let lead = 0;
        Buffer { storage, lead, len }
    }

    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut copy = Buffer::with_capacity(bytes.len())?;
        copy.push(bytes);
        Ok(copy)
    }

    /// Appends `bytes`, for which there is room.
    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.spare_capacity_mut(bytes.len());
            let (now, rest) = bytes.split_at(room.len());
            // SAFETY: u8 and MaybeUninit<u8> have the same layout, and initialised bytes are valid for both.
            let from = unsafe { &*(std::ptr::from_ref(now) as *const [MaybeUninit<u8>]) };
            room.copy_from_slice(from);
            self.len += now.len();
            bytes = rest;
        }
    }

    /// The bytes read so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY:
        // - `read_from`, `read_file`, `push` and `from_region` count initialised bytes, which `storage` owns.
        // - Only `&mut self` gives access for writing.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.len) }
    }

    /// Discards the bytes and keeps the capacity.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// How many bytes were read so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        let start = match &self.storage {
            Storage::Block(block) => block.start(),
            Storage::Region(region) => region.start(),
        };
        // SAFETY: `lead` is at most the length of `storage`.
        unsafe { start.add(self.lead) }
    }

    /// The pages of the bytes that were read. A block shares its pages with other blocks.
    pub(crate) fn pages(&self) -> Pages<'_> {
        match &self.storage {
            Storage::Block(_) => Pages::heap(self.bytes()),
            Storage::Region(region) => Pages::own(self.bytes()).with_locks(region.locked_pages()),
        }
    }

    #[inline]
    fn capacity(&self) -> usize {
        let len = match &self.storage {
            Storage::Block(block) => block.capacity(),
            Storage::Region(region) => region.len(),
        };
        len - self.lead
    }

    #[inline]
    fn uninit_slice_mut(&mut self) -> &mut [MaybeUninit<u8>] {
        match &mut self.storage {
            Storage::Block(block) => &mut block.uninit_slice_mut()[self.lead..],
            Storage::Region(region) => {
                let range = self.lead..region.len();
                // SAFETY: the region is private anonymous memory that this buffer owns. It is writable until it is
                // shared, and then there is no `&mut self`.
                unsafe { region.uninit_slice_mut(range) }
            }
        }
    }

    /// The memory for the next read: behind the bytes so far, at most `most` bytes.
    #[inline]
    fn next_chunk(&self, most: usize) -> Range<usize> {
        self.len..self.len + (self.capacity() - self.len).min(most).min(READ_CHUNK)
    }

    #[inline]
    fn spare_capacity_mut(&mut self, most: usize) -> &mut [MaybeUninit<u8>] {
        let chunk = self.next_chunk(most);
        &mut self.uninit_slice_mut()[chunk]
    }

    /// Faults in the huge pages that `chunk` is the first to reach. The kernel holds the pipe's lock while it copies: a page
    /// fault in between, which zeroes 2 MiB, would block the writer.
    #[inline]
    fn fault_in(&self, chunk: &Range<usize>) {
        if let Storage::Region(region) = &self.storage {
            let first = whole_huge_pages(self.lead + chunk.start);
            let end = whole_huge_pages(self.lead + chunk.end).min(region.len());
            if first < end {
                // Refused (Linux before 5.14, no memory), they are faulted in by the read.
                let _ = region.advise(first..end, libc::MADV_POPULATE_WRITE);
            }
        }
    }

    /// Calls `read` once with room for at most `most` bytes; it returns the part that it filled, from the start. Returns how
    /// many bytes that are: 0 at the end, or if there is no room.
    #[inline]
    pub(crate) fn read_from<F>(&mut self, most: usize, read: F) -> io::Result<usize>
    where
        F: FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<&mut [u8]>,
    {
        self.fault_in(&self.next_chunk(most));
        let room = self.spare_capacity_mut(most);
        if room.is_empty() {
            return Ok(0);
        }
        let n = read(room)?.len();
        self.len += n;
        Ok(n)
    }

    /// Reads a file from `offset` on, up to `most` bytes or its end, into an empty buffer. Uses a second thread for large
    /// files. `progress` may stop it.
    pub(crate) fn read_file(
        &mut self,
        fd: BorrowedFd<'_>,
        offset: u64,
        most: usize,
        progress: &mut Progress<'_>,
    ) -> io::Result<()> {
        let end = self.capacity().min(most);
        let room = &mut self.uninit_slice_mut()[..end];
        self.len = read_parallel(room, fd, offset, progress)?;
        Ok(())
    }

    /// Makes room for a datagram, or for `most` bytes if that is less.
    pub(crate) fn reserve(&mut self, most: usize) -> Result<()> {
        if self.capacity() - self.len >= most.min(DATAGRAM_MAX) {
            return Ok(());
        }
        match &mut self.storage {
            Storage::Block(block) => {
                let used = self.lead + self.len;
                let mut region = Region::with_huge_pages(whole_huge_pages(2 * used))?;
                // SAFETY: private anonymous memory, mapped in the line above.
                let room = unsafe { region.uninit_slice_mut(0..used) };
                room.copy_from_slice(&block.uninit_slice_mut()[..used]);
                self.storage = Storage::Region(region);
                Ok(())
            }
            Storage::Region(region) => {
                let len = region.len();
                // Address space costs nothing, so it is doubled; where it is limited (RLIMIT_AS), one huge page more.
                let doubled = region.grow_with_huge_pages(2 * len);
                doubled.or_else(|_| region.grow_with_huge_pages(len + whole_huge_pages(1)))
            }
        }
    }

    /// Frees the capacity that was not used.
    pub(crate) fn shrink_to_fit(mut self) -> Self {
        if self.len == 0 {
            // No bytes are aligned for every type.
            self.lead = 0;
        }
        let len = self.lead + self.len;
        match &mut self.storage {
            Storage::Block(block) => {
                if len < block.capacity() {
                    block.truncate(len);
                }
            }
            Storage::Region(region) => {
                // Whole huge pages only: cutting through one would split it and free nothing. If it fails
                // (vm.max_map_count), the rest stays mapped, without memory.
                let _ = region.resize(whole_huge_pages(len).min(region.len()), page::size());
            }
        }
        self
    }
}

/// How far behind a multiple of [`ALIGN`] an offset is.
fn lead(offset: u64) -> usize {
    offset as usize % ALIGN
}

/// Huge pages of 32 or 512 MiB (aarch64 with pages of 16 or 64 KiB) are for what fills them: where they are so large, in units of
/// a slab.
fn whole_huge_pages(len: usize) -> usize {
    let huge = page::huge_size().unwrap_or(page::size()).min(slab::SLAB);
    len.checked_next_multiple_of(huge).unwrap_or(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_while_a_block_becomes_a_mapping() {
        let offset = 3 * ALIGN as u64 + 5;
        let mut memory = Buffer::for_stream(&[]).unwrap().aligned_as(offset);
        let mut model = Vec::new();
        let mut next = 0_u8;
        while model.len() < 9 << 20 {
            memory.reserve(usize::MAX).unwrap();
            let n = memory.read_from(100_003, |spare| {
                for byte in spare.iter_mut() {
                    byte.write(next);
                    model.push(next);
                    next = next.wrapping_mul(5).wrapping_add(1);
                }
                // SAFETY: written above.
                Ok(unsafe { &mut *(std::ptr::from_mut(spare) as *mut [u8]) })
            });
            assert!(n.unwrap() > 0);
            assert_eq!(memory.start().addr().get() % ALIGN, 5);
        }
        let memory = memory.shrink_to_fit();
        assert!(memory.bytes() == model);
        assert_eq!(memory.start().addr().get() % ALIGN, 5);
    }

    #[test]
    fn a_copy_is_equal_whatever_its_size() {
        for len in [0, 1, 4096, BLOCK_MAX, BLOCK_MAX + 1, 5 << 20] {
            let model: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            assert!(Buffer::copy_of(&model).unwrap().bytes() == model, "{len}");
        }
    }
}
