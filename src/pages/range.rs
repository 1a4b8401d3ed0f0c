//! The pages that hold the bytes of a value, and what can be done to them.

use super::Advice;
use super::advice::Edges;
use super::lock::LockGuard;
use super::prefetch;
use super::residency::Residency;
use crate::budget;
use crate::error::{Error, Result};
use crate::page;
use crate::range;
use crate::sys;
use std::io;
use std::ops::{Range, RangeBounds};
use std::path::Path;

/// The most bytes in one system call that faults pages in: other threads can map and unmap between two, and no huge
/// page lies in two.
pub(super) const STEP: usize = 16 << 20;

/// Bytes in one `MADV_WILLNEED`: as many as devices are fast with, and no more than any device takes. The kernel cuts a
/// range down to the readahead of the device or its largest request, whichever is more, and does not say so.
const AHEAD: (usize, usize) = (4 << 20, 128 << 10);

/// So many bytes are worth a thread that faults them in.
const BACKGROUND: usize = 2 << 20;

/// So few bytes always fit, and nobody asks how much memory there is.
const UNASKED: usize = 64 << 20;

/// ```text
///   page      page      page      page      page
///   |<----------------- a region ---------------->|
///   |   |<-------------- the bytes ---------->|   |
///           |<--- a range --->|
///   |<- pages that hold it -->|   taken
///             |<----->|           left: pages that hold nothing else
/// ```
/// Only the page of the first byte and that of the last can hold bytes of nobody.
///
/// It knows addresses and no `Region`: that of a leased snapshot belongs to the keeper, who may put other pages there
/// at any moment.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    /// Address of the first byte.
    start: usize,
    len: usize,
    /// Addresses of pages are multiples of it, in bytes.
    granule: usize,
    kind: Kind,
    /// Whether faults read them from a disk.
    on_disk: bool,
    /// What errors name.
    path: Option<&'a Path>,
}

/// What is behind the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A block of the heap, read to the end: its pages may hold blocks of others.
    Heap,
    /// Memory of this process, writable.
    Memory,
    /// Memory of this process that is only read, or a file that is its own.
    Own,
    /// A file of whoever.
    File,
}

impl<'a> Pages<'a> {
    /// A block of the heap.
    pub(crate) fn heap<T: ?Sized>(bytes: &'a T) -> Self {
        Pages::of(bytes, Kind::Heap)
    }

    /// A mapping of memory that may be faulted in by writing; its pages are multiples of `granule`.
    pub(crate) fn memory<T: ?Sized>(bytes: &'a T, granule: usize) -> Self {
        let pages = Pages::of(bytes, Kind::Memory);
        Pages { granule, ..pages }
    }

    /// A mapping of memory that is only read, or of a file that this process may write to.
    pub(crate) fn own<T: ?Sized>(bytes: &'a T) -> Self {
        Pages::of(bytes, Kind::Own)
    }

    /// A mapping of a file of whoever.
    pub(crate) fn file<T: ?Sized>(bytes: &'a T) -> Self {
        Pages::of(bytes, Kind::File)
    }

    /// The same, of a file on a disk: faulting a page in takes memory only for as long as the kernel likes.
    pub(crate) fn on_disk(self) -> Self {
        Pages {
            on_disk: true,
            ..self
        }
    }

    /// The same, with a name for errors.
    pub(crate) fn named(self, path: Option<&'a Path>) -> Self {
        Pages { path, ..self }
    }

    /// The mapping holds whole pages, so those of its bytes are all in it.
    fn of<T: ?Sized>(bytes: &'a T, kind: Kind) -> Self {
        Pages {
            start: std::ptr::from_ref(bytes).cast::<u8>().addr(),
            len: size_of_val(bytes),
            granule: page::size(),
            kind,
            on_disk: false,
            path: None,
        }
    }

    /// Addresses of the pages for a range of the bytes, by the rule that all operations follow.
    fn pages<R: RangeBounds<usize>>(&self, range: R, edges: Edges) -> Result<Range<usize>> {
        let range = range::check(range, self.len)?;
        if range.is_empty() {
            return Ok(self.start..self.start);
        }
        let (down, up) = (
            self.down(self.start + range.start),
            self.up(self.start + range.end),
        );
        match edges {
            Edges::Taken => return Ok(down..up),
            Edges::Huge => return Ok(self.huge_pages(down..up)),
            Edges::Left => {}
        }
        // What lies before the first byte and after the last is nobody's, and the page as good as held whole.
        let start = match range.start {
            0 => down,
            start => self.up(self.start + start),
        };
        let end = match range.end {
            end if end == self.len => up,
            end => self.down(self.start + end),
        };
        Ok(start..end.max(start))
    }

    /// The huge pages that hold these pages and lie in the mapping: the kernel would pass over those in part.
    fn huge_pages(&self, pages: Range<usize>) -> Range<usize> {
        let huge = page::huge_size().unwrap_or(self.granule);
        let all = self.down(self.start)..self.up(self.start + self.len);
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

    fn down(&self, address: usize) -> usize {
        address - address % self.granule
    }

    /// The bytes are mapped in whole pages, so rounding up inside them cannot overflow.
    fn up(&self, address: usize) -> usize {
        address.next_multiple_of(self.granule)
    }

    pub(super) fn advise<R: RangeBounds<usize>>(&self, range: R, advice: Advice) -> Result<()> {
        let pages = self.pages(range, advice.edges())?;
        let done = match (self.kind, advice) {
            // Pages of the heap hold blocks of others, which nobody gave us to speak for.
            (Kind::Heap, _) => Ok(()),
            (_, Advice::WillNeed) => read_ahead(pages),
            _ => sys::pages::advise(pages, advice.code()),
        };
        done.map_err(|e| self.error(e))
    }

    pub(super) fn prefetch<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        let mut pages = self.pages(range, Edges::Taken)?;
        if self.on_disk && pages.len() > UNASKED {
            pages = first(pages, budget::default_memory_limit());
        }
        let started = || pages.len() >= BACKGROUND && prefetch::start(pages.clone());
        let done = match self.kind {
            Kind::Heap => Ok(()),
            // In a file in memory, a fault would make a page where there is a hole.
            _ if self.on_disk && started() => Ok(()),
            _ => read_ahead(pages),
        };
        done.map_err(|e| self.error(e))
    }

    pub(super) fn populate<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        let pages = self.pages(range, Edges::Taken)?;
        pieces(pages, STEP).try_for_each(|step| self.populate_step(step))
    }

    fn populate_step(&self, step: Range<usize>) -> Result<()> {
        // Reading would give a page of zeros that all share, to be replaced at the first write; and no huge one.
        let advice = match self.kind {
            Kind::Memory => Advice::PopulateWrite,
            _ => Advice::PopulateRead,
        };
        let mut done = sys::pages::advise(step.clone(), advice.code());
        let refused = done
            .as_ref()
            .is_err_and(|e| e.raw_os_error() == Some(libc::EINVAL));
        if refused && !advice.is_supported() {
            done = sys::pages::advise(step, Advice::WillNeed.code());
        }
        done.map_err(|e| self.error(e))
    }

    pub(super) fn lock<R: RangeBounds<usize>>(&self, range: R) -> Result<LockGuard<'a>> {
        let pages = self.pages(range, Edges::Taken)?;
        let mut locked = LockGuard::nothing(pages.start);
        for step in pieces(pages, STEP) {
            // What has to be read is read here, where no other lock waits for it, and a lost page is told from a limit.
            self.populate_step(step.clone())?;
            locked
                .extend(step.end)
                .map_err(|e| Error::os("mlock", self.path, e))?;
        }
        Ok(locked)
    }

    pub(super) fn residency(&self) -> Result<Residency> {
        let pages = self.small_pages();
        let residency = Residency::of(pages.clone(), self.start, self.len)?;
        let suspect = self.kind == Kind::File && !pages.is_empty() && residency.is_full();
        Ok(
            match suspect && sys::pages::in_core_is_true(pages.start) != Some(true) {
                true => residency.unknown(),
                false => residency,
            },
        )
    }

    pub(super) fn huge_bytes(&self) -> Result<usize> {
        let pages = self.small_pages();
        match pages.is_empty() {
            true => Ok(0),
            false => super::huge::bytes(pages),
        }
    }

    /// The pages that hold the bytes, in the unit of mincore(2) whatever is mapped.
    fn small_pages(&self) -> Range<usize> {
        match self.len {
            0 => self.start..self.start,
            len => page::round_down(self.start)..(self.start + len).next_multiple_of(page::size()),
        }
    }

    /// A refused madvise(2): `EFAULT` where the page would have been a signal.
    fn error(&self, source: io::Error) -> Error {
        let of_file = matches!(self.kind, Kind::File | Kind::Own);
        match source.raw_os_error() {
            Some(libc::EFAULT) if of_file => Error::Faulted {
                path: self.path.map(Path::to_path_buf),
            },
            _ => Error::os("madvise", self.path, source),
        }
    }
}

/// Starts reading all of these pages in: in large pieces, then what was cut off of them in ever smaller ones. What is
/// there already is passed over, which takes a twentieth of the time that reading it took.
fn read_ahead(pages: Range<usize>) -> io::Result<()> {
    let (most, fewest) = AHEAD;
    for chunk in pieces(pages, most) {
        let mut size = most;
        while size >= fewest {
            pieces(chunk.clone(), size)
                .try_for_each(|piece| sys::pages::advise(piece, Advice::WillNeed.code()))?;
            size /= 2;
        }
    }
    Ok(())
}

/// The first of these pages, for which there is room: further ones would push them out again before they are needed.
fn first(pages: Range<usize>, room: u64) -> Range<usize> {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let len = pages.len().min(page::round_down(room));
    pages.start..pages.start + len
}

/// Pages in pieces of at most `size` bytes, cut at its multiples.
pub(super) fn pieces(pages: Range<usize>, size: usize) -> impl Iterator<Item = Range<usize>> {
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
    fn the_first_pages_are_as_many_as_there_is_room_for() {
        let page = page::size();
        let pages = 7 * page..(1 << 40);
        for (room, end) in [
            (0, 7 * page),
            (page - 1, 7 * page),
            (2 * page + 1, 9 * page),
            (1 << 40, 1 << 40),
            (usize::MAX, 1 << 40),
        ] {
            assert_eq!(first(pages.clone(), room as u64), 7 * page..end);
        }
    }

    #[test]
    fn pieces_cover_the_pages_in_order_and_cut_no_huge_page() {
        let page = 4096;
        for (start, len) in [
            (0, 0),
            (page, page),
            (STEP - page, 2 * page),
            (3 * page, 5 * STEP),
        ] {
            let pages = start..start + len;
            let steps: Vec<_> = pieces(pages.clone(), STEP).collect();
            let mut next = pages.start;
            for step in &steps {
                assert_eq!(step.start, next);
                assert!(!step.is_empty() && step.len() <= STEP);
                assert!(step.end == pages.end || step.end % STEP == 0);
                next = step.end;
            }
            assert_eq!(next, pages.end);
        }
    }
}
