//! The addresses of a value, and which pages a range of its bytes takes.

use super::advice::Rounding;
use crate::error::Result;
use crate::page;
use crate::range;
use std::ops::{Range, RangeBounds};

/// Where the bytes of a value are, and in pages of which size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Address of the first byte.
    pub(super) start: usize,
    pub(super) len: usize,
    /// Size of a page, in bytes; addresses of pages are multiples of it.
    pub(super) page_size: usize,
}

impl Span {
    /// Addresses of the pages for a range of the bytes: the one rule that all operations follow.
    pub(super) fn in_range<R: RangeBounds<usize>>(
        &self,
        range: R,
        rounding: Rounding,
    ) -> Result<Range<usize>> {
        let range = range::check(range, self.len)?;
        if range.is_empty() {
            return Ok(self.start..self.start);
        }
        let outward =
            self.align_down(self.start + range.start)..self.align_up(self.start + range.end);
        Ok(match rounding {
            Rounding::Outward => outward,
            Rounding::ToHugePages => self.huge_pages(outward),
            Rounding::Inward => self.inward(&range, outward),
        })
    }

    /// The pages that hold no byte of the value outside of the range. Those of its first and last byte hold nothing else.
    fn inward(&self, range: &Range<usize>, outward: Range<usize>) -> Range<usize> {
        let start = match range.start {
            0 => outward.start,
            start => self.align_up(self.start + start),
        };
        let end = match range.end {
            end if end == self.len => outward.end,
            end => self.align_down(self.start + end),
        };
        start..end.max(start)
    }

    /// The huge pages that hold these pages and lie in the mapping: the kernel would skip those that are only partly advised.
    fn huge_pages(&self, pages: Range<usize>) -> Range<usize> {
        let huge = page::huge_size().unwrap_or(self.page_size);
        let all = self.align_down(self.start)..self.align_up(self.start + self.len);
        let start = match pages.start / huge * huge {
            start if start < all.start => all.start.next_multiple_of(huge),
            start => start,
        };
        let end = match pages.end.next_multiple_of(huge) {
            end if end > all.end => all.end / huge * huge,
            end => end,
        };
        start..end.max(start)
    }

    /// The pages that hold a checked range, in the unit of mincore(2) whatever is mapped.
    pub(super) fn small_pages(&self, bytes: &Range<usize>) -> Range<usize> {
        let start = page::align_down(self.start + bytes.start);
        if bytes.is_empty() {
            return start..start;
        }
        start..(self.start + bytes.end).next_multiple_of(page::size())
    }

    fn align_down(&self, address: usize) -> usize {
        address - address % self.page_size
    }

    /// The bytes are mapped in whole pages, so this cannot overflow inside them.
    fn align_up(&self, address: usize) -> usize {
        address.next_multiple_of(self.page_size)
    }
}

/// Pages in chunks of at most `size` bytes, cut at its multiples.
pub(super) fn chunks(pages: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
    let mut next = pages.start;
    std::iter::from_fn(move || {
        let start = next;
        next = (start + 1).next_multiple_of(size).min(pages.end);
        (start < pages.end).then_some(start..next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_the_pages_in_order_and_cut_at_multiples() {
        const SIZE: usize = 16 << 20;
        let page = 4096;
        for (start, len) in [
            (0, 0),
            (page, page),
            (SIZE - page, 2 * page),
            (3 * page, 5 * SIZE),
        ] {
            let pages = start..start + len;
            let mut next = pages.start;
            for chunk in chunks(pages.clone(), SIZE) {
                assert_eq!(chunk.start, next);
                assert!(!chunk.is_empty() && chunk.len() <= SIZE);
                assert!(chunk.end == pages.end || chunk.end % SIZE == 0);
                next = chunk.end;
            }
            assert_eq!(next, pages.end);
        }
    }
}
