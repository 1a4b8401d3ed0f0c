//! Bytes in memory of our own: a heap block while they are few, an anonymous mapping with huge pages beyond.
//!
//! Filling fresh 4 KiB pages costs a fault each, more than the copy itself; a huge page costs one fault for 512 of
//! them. Below a huge page the heap is better: what it gave before, it gives again without a fault.
#![allow(unsafe_code)]

mod heap;
mod parallel;

use crate::error::Result;
use crate::page;
use crate::pages::Pages;
use crate::region::Region;
use heap::HeapBlock;
use parallel::{Step, fill};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// The most bytes that go into a heap block.
const BLOCK_MAX: usize = 1 << 20;

/// The least room for one read of a stream. A socket or pipe that keeps messages apart drops what does not fit.
const MESSAGE: usize = 64 << 10;

/// What a stream of unknown length gets first: room for a message after what a pipe holds by default.
const STREAM_BLOCK: usize = 2 * MESSAGE;

/// One read. Large enough that the system call does not count, small enough that what was filled is still in the
/// cache of the processor when it is used.
const STEP: usize = 512 << 10;

/// Bytes that were read, and room for more.
#[derive(Debug)]
pub(crate) struct Buffer {
    place: Place,
    len: usize,
}

#[derive(Debug)]
enum Place {
    Block(HeapBlock),
    Region(Region),
}

impl Buffer {
    /// Room for `len` bytes.
    pub(crate) fn with_capacity(len: usize) -> Result<Self> {
        let place = match len {
            0..=BLOCK_MAX => Place::Block(HeapBlock::with_capacity(len)?),
            _ => Place::Region(Region::transparent(whole_huge_pages(len))?),
        };
        Ok(Buffer { place, len: 0 })
    }

    /// Room for a stream whose length nobody knows.
    pub(crate) fn for_stream() -> Result<Self> {
        Buffer::with_capacity(STREAM_BLOCK)
    }

    /// How many bytes are in heap blocks now, small blocks aside.
    pub(crate) fn in_blocks() -> usize {
        HeapBlock::live()
    }

    /// What an anonymous mapping holds, from here on read-only.
    pub(crate) fn from_region(region: Region, len: usize) -> Self {
        debug_assert!(len <= region.len());
        let place = Place::Region(region);
        Buffer { place, len }
    }

    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Result<Self> {
        let mut memory = Buffer::with_capacity(bytes.len())?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let spare = memory.spare(rest.len());
            let n = spare.len().min(rest.len());
            // SAFETY: u8 and MaybeUninit<u8> have the same layout, and initialised bytes are valid for both.
            let from = unsafe { &*(std::ptr::from_ref(&rest[..n]) as *const [MaybeUninit<u8>]) };
            spare[..n].copy_from_slice(from);
            memory.len += n;
            rest = &rest[n..];
        }
        Ok(memory)
    }

    /// What was read so far.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `read_from` and `from_region` count bytes that are there, and nobody else changes them.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.len) }
    }

    /// The same, to be changed: for memory that was read, not for what `from_region` made read-only.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = match &mut self.place {
            Place::Block(block) => &mut block.spare()[..self.len],
            // SAFETY: a region in `Buffer` is private anonymous memory of ours.
            Place::Region(region) => unsafe { region.spare(0..self.len) },
        };
        // SAFETY: `read_from` counts bytes that are there; the borrow is the same.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
    }

    /// Forgets what was read.
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Bytes read so far.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        match &self.place {
            Place::Block(block) => block.start(),
            Place::Region(region) => region.start(),
        }
    }

    /// The pages of the bytes that were read.
    pub(crate) fn pages(&self) -> Pages<'_> {
        match &self.place {
            Place::Block(_) => Pages::heap(self.bytes()),
            Place::Region(region) => Pages::own(self.bytes()).with_locks(region.locked_pages()),
        }
    }

    /// Whether it is a block of the heap, and no mapping.
    pub(crate) fn is_block(&self) -> bool {
        matches!(self.place, Place::Block(_))
    }

    fn capacity(&self) -> usize {
        match &self.place {
            Place::Block(block) => block.capacity(),
            Place::Region(region) => region.len(),
        }
    }

    /// Room for at most `most` bytes after those that are there: one step's worth.
    fn step(&self, most: usize) -> Range<usize> {
        self.len..self.len + (self.capacity() - self.len).min(most).min(STEP)
    }

    fn spare(&mut self, most: usize) -> &mut [MaybeUninit<u8>] {
        let step = self.step(most);
        match &mut self.place {
            Place::Block(block) => &mut block.spare()[step],
            // SAFETY: a region in `Buffer` is private anonymous memory of ours, writable until it is given out.
            Place::Region(region) => unsafe { region.spare(step) },
        }
    }

    /// Faults in the huge pages that a step is the first to reach. The kernel copies out of a pipe under the pipe's lock: a
    /// fault in the middle of that, which zeroes 2 MiB, would keep the writer waiting.
    fn fault_in(&self, step: &Range<usize>) {
        if let Place::Region(region) = &self.place {
            let first = whole_huge_pages(step.start);
            let end = whole_huge_pages(step.end).min(region.len());
            if first < end {
                // Refused (Linux before 5.14, no memory), they come by the fault.
                let _ = region.advise(first..end, libc::MADV_POPULATE_WRITE);
            }
        }
    }

    /// One call of `read`, which fills the front of what it is given and gives that back; at most `most` bytes. Gives
    /// their number, or 0 at the end, or if there is no room.
    pub(crate) fn read_from<F>(&mut self, most: usize, read: F) -> io::Result<usize>
    where
        F: FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<&mut [u8]>,
    {
        self.fault_in(&self.step(most));
        let spare = self.spare(most);
        if spare.is_empty() {
            return Ok(0);
        }
        let n = read(spare)?.len();
        self.len += n;
        Ok(n)
    }

    /// Reads a file from `offset` on, `most` bytes or up to its end, into memory that is empty yet; with two threads if
    /// that is much.
    pub(crate) fn fill(
        &mut self,
        fd: BorrowedFd<'_>,
        offset: u64,
        most: usize,
        step: &mut Step<'_>,
    ) -> io::Result<()> {
        let end = self.capacity().min(most);
        let into = match &mut self.place {
            Place::Block(block) => &mut block.spare()[..end],
            // SAFETY: as in `spare`.
            Place::Region(region) => unsafe { region.spare(0..end) },
        };
        self.len = fill(into, fd, offset, step)?;
        Ok(())
    }

    /// Makes room for a message, or for `most` bytes if that is less.
    pub(crate) fn make_room(&mut self, most: usize) -> Result<()> {
        if self.capacity() - self.len >= most.min(MESSAGE) {
            return Ok(());
        }
        match &mut self.place {
            Place::Block(block) => {
                let mut region = Region::transparent(whole_huge_pages(2 * self.len))?;
                // SAFETY: private anonymous memory of ours, made in the line above.
                let spare = unsafe { region.spare(0..self.len) };
                spare.copy_from_slice(&block.spare()[..self.len]);
                self.place = Place::Region(region);
                Ok(())
            }
            Place::Region(region) => {
                let len = region.len();
                // Address space is free, so double it; where it is limited (RLIMIT_AS), take what is left.
                let doubled = region.grow_transparent(2 * len);
                doubled.or_else(|_| region.grow_transparent(len + whole_huge_pages(1)))
            }
        }
    }

    /// Gives back the room that was not needed.
    pub(crate) fn finish(mut self) -> Result<Self> {
        let len = self.len;
        match &mut self.place {
            Place::Block(block) if len < block.capacity() / 2 => Buffer::copy_of(self.bytes()),
            Place::Block(_) => Ok(self),
            Place::Region(region) => {
                // Whole huge pages only: cutting through one would split it and free nothing.
                // Should that fail (vm.max_map_count), the rest stays mapped, untouched.
                let _ = region.resize(whole_huge_pages(len).min(region.len()), page::size());
                Ok(self)
            }
        }
    }
}

/// Reads a range of a file into the front of private memory; what a file that is too short does not fill stays zero.
/// `step` may stop it.
pub(crate) fn fill_region(
    region: &mut Region,
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    step: &mut Step<'_>,
) -> io::Result<()> {
    let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    // SAFETY: the caller gives private anonymous memory of ours.
    let into = unsafe { region.spare(0..len) };
    fill(into, fd, range.start, step).map(drop)
}

fn whole_huge_pages(len: usize) -> usize {
    let huge = page::huge_size().unwrap_or(page::size());
    len.checked_next_multiple_of(huge).unwrap_or(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_stays_while_it_grows_out_of_the_heap() {
        let mut memory = Buffer::for_stream().unwrap();
        let mut model = Vec::new();
        let mut next = 0_u8;
        while model.len() < 9 << 20 {
            memory.make_room(usize::MAX).unwrap();
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
        }
        let memory = memory.finish().unwrap();
        assert!(memory.bytes() == model);
    }

    #[test]
    fn a_copy_is_equal_whatever_its_size() {
        for len in [0, 1, 4096, BLOCK_MAX, BLOCK_MAX + 1, 5 << 20] {
            let model: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            assert!(Buffer::copy_of(&model).unwrap().bytes() == model, "{len}");
        }
    }
}
