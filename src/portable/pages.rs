//! The pages of a value: residency, locks and prefetching, as far as the platform has them.

use super::locked_pages;
use crate::error::{Error, Result};
use crate::page;
use crate::range;
use crate::residency::Residency;
use crate::sys;
use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::{Range, RangeBounds};

/// The pages of a value; made by its `pages()`.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    /// The address of the first byte; 0 if there is none.
    start: usize,
    len: usize,
    /// Bytes that may be in a file; `None` for those that other threads change, or that are not in memory at all.
    bytes: Option<&'a [u8]>,
    kind: Kind,
    value: PhantomData<&'a [u8]>,
}

/// What the pages of a value hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The value and nothing else.
    Own,
    /// Also other blocks of the heap.
    Heap,
    /// The bytes are not in memory.
    None,
}

impl<'a> Pages<'a> {
    pub(super) fn new(bytes: &'a [u8], kind: Kind) -> Self {
        Pages {
            bytes: Some(bytes),
            ..Pages::shared(bytes.as_ptr().addr(), bytes.len(), kind)
        }
    }

    /// Of bytes that other threads change, from an address on.
    pub(super) fn shared(start: usize, len: usize, kind: Kind) -> Self {
        Pages {
            start,
            len,
            bytes: None,
            kind,
            value: PhantomData,
        }
    }

    /// Of bytes that are not in memory.
    pub(super) fn without_bytes(len: usize) -> Self {
        Pages::shared(0, len, Kind::None)
    }

    fn unsupported<T, R: RangeBounds<usize>>(&self, range: R, what: &'static str) -> Result<T> {
        range::check(range, self.len)?;
        Err(Error::unsupported(None, what))
    }

    /// The addresses of the pages that hold a checked range.
    fn addresses(&self, bytes: &Range<usize>) -> Range<usize> {
        let start = page::align_down(self.start + bytes.start);
        if bytes.is_empty() {
            return start..start;
        }
        start..(self.start + bytes.end).next_multiple_of(page::size())
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Unsupported`].
    pub fn advise<R: RangeBounds<usize>>(&self, range: R, _advice: Advice) -> Result<()> {
        self.unsupported(range, "advice on memory")
    }

    /// On Windows, reads pages of a file that are not in memory (PrefetchVirtualMemory). It has no effect on the heap, nor on
    /// other platforms.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Os`].
    pub fn prefetch<R: RangeBounds<usize>>(&self, range: R) -> Result<Prefetch<'a>> {
        let pages = self.addresses(&range::check(range, self.len)?);
        if self.kind == Kind::Own && !pages.is_empty() {
            sys::prefetch(&pages).map_err(|e| Error::os("prefetch", None, e))?;
        }
        Ok(Prefetch { value: self.value })
    }

    /// Reads a byte of each page, so that those of a file that is mapped are in memory.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn populate<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        let range = range::check(range, self.len)?;
        let bytes = self.bytes.map_or(&[][..], |bytes| &bytes[range]);
        // The last byte as well: the first need not be at the start of its page.
        for byte in bytes.iter().step_by(page::size()).chain(bytes.last()) {
            black_box(*byte);
        }
        Ok(())
    }

    /// Keeps pages in RAM until the guard is dropped: on Windows, for memory that is not of the heap (VirtualLock). A process
    /// may lock a little less than its minimum working set, some 200 KiB unless the program raises it.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Unsupported`] on the heap, and on other platforms; [`Error::Os`].
    pub fn lock<R: RangeBounds<usize>>(&self, range: R) -> Result<LockGuard<'a>> {
        let pages = self.addresses(&range::check(range, self.len)?);
        if self.kind != Kind::Own {
            return self.unsupported(.., "locking memory");
        }
        if !pages.is_empty() {
            locked_pages::lock(&pages).map_err(|e| Error::os("mlock", None, e))?;
        }
        let value = self.value;
        Ok(LockGuard { pages, value })
    }

    /// Which pages are in RAM. Known on Windows only, for memory and files that are mapped: which pages are in the working
    /// set of this process.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn residency<R: RangeBounds<usize>>(&self, range: R) -> Result<Residency> {
        let bytes = range::check(range, self.len)?;
        let pages = self.addresses(&bytes);
        let residency = Residency::query(pages, self.start, bytes, sys::residency)?;
        Ok(if self.kind == Kind::None {
            residency.into_unknown()
        } else {
            residency
        })
    }

    /// Whether all pages of a range are in RAM; false where that is not known.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn is_resident<R: RangeBounds<usize>>(&self, range: R) -> Result<bool> {
        self.residency(range).map(|residency| residency.is_full())
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn huge_bytes(&self) -> Result<usize> {
        self.unsupported(.., "counting huge pages")
    }
}

/// Advice of madvise(2) of Linux. None of it is supported here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names of madvise(2)")]
pub enum Advice {
    Normal,
    Sequential,
    Random,
    WillNeed,
    Cold,
    PageOut,
    HugePage,
    NoHugePage,
    Collapse,
    PopulateRead,
    PopulateWrite,
    DontDump,
    DoDump,
    Mergeable,
    Unmergeable,
}

impl Advice {
    /// False.
    pub fn is_supported(self) -> bool {
        false
    }
}

/// A prefetch that is finished.
#[derive(Debug)]
#[must_use]
pub struct Prefetch<'a> {
    #[allow(dead_code, reason = "the borrow")]
    value: PhantomData<&'a [u8]>,
}

impl Prefetch<'_> {
    /// True.
    pub fn is_finished(&self) -> bool {
        true
    }
}

/// Keeps pages in RAM until it is dropped. Locks nest. A VirtualUnlock of the program unlocks these pages too.
#[derive(Debug)]
#[must_use]
pub struct LockGuard<'a> {
    pages: Range<usize>,
    value: PhantomData<&'a [u8]>,
}

impl LockGuard<'_> {
    /// How many bytes are locked: whole pages.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// True if none are.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// True: nothing of this crate unlocks them.
    pub fn is_held(&self) -> bool {
        true
    }
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        locked_pages::unlock(&self.pages);
    }
}
