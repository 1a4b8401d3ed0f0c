//! The pages of a value: nothing is known of them here.

use crate::error::{Error, Result};
use crate::page;
use crate::range;
use std::convert::Infallible;
use std::fmt::{self, Write};
use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::{Range, RangeBounds};

/// The columns of a drawing without a width, as on Linux.
const DEFAULT_WIDTH: usize = 64;

/// The pages of a value; made by its `pages()`.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    len: usize,
    /// Bytes that may be in a file; `None` for those that other threads change, or that are not in memory at all.
    bytes: Option<&'a [u8]>,
    value: PhantomData<&'a [u8]>,
}

impl<'a> Pages<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Pages {
            bytes: Some(bytes),
            ..Pages::of_len(bytes.len())
        }
    }

    pub(super) fn of_len(len: usize) -> Self {
        let (bytes, value) = (None, PhantomData);
        Pages { len, bytes, value }
    }

    fn unsupported<T, R: RangeBounds<usize>>(&self, range: R, what: &'static str) -> Result<T> {
        range::check(range, self.len)?;
        Err(Error::unsupported(None, what))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Unsupported`].
    pub fn advise<R: RangeBounds<usize>>(&self, range: R, _advice: Advice) -> Result<()> {
        self.unsupported(range, "advice on memory")
    }

    /// Has no effect.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn prefetch<R: RangeBounds<usize>>(&self, range: R) -> Result<Prefetch<'a>> {
        range::check(range, self.len)?;
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

    /// Fails.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Unsupported`].
    pub fn lock<R: RangeBounds<usize>>(&self, range: R) -> Result<LockGuard<'a>> {
        self.unsupported(range, "locking memory")
    }

    /// Which pages are in RAM: [not known](Residency::is_reliable).
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn residency<R: RangeBounds<usize>>(&self, range: R) -> Result<Residency> {
        let range = range::check(range, self.len)?;
        let pages = range.len().div_ceil(page::size());
        Ok(Residency { pages })
    }

    /// False: not known.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn is_resident<R: RangeBounds<usize>>(&self, range: R) -> Result<bool> {
        range::check(range, self.len).map(|range| range.is_empty())
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn huge_bytes(&self) -> Result<usize> {
        self.unsupported(.., "counting huge pages")
    }
}

/// Advice for the kernel, as madvise(2) of Linux has it. None of it is supported here.
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

/// Reading ahead; finished from the start.
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

/// Pages locked into RAM. There are none on this platform.
#[derive(Debug)]
#[must_use]
pub struct LockGuard<'a> {
    never: Infallible,
    value: PhantomData<&'a [u8]>,
}

impl LockGuard<'_> {
    /// How many bytes are locked.
    pub fn len(&self) -> usize {
        match self.never {}
    }

    /// True if none are.
    pub fn is_empty(&self) -> bool {
        match self.never {}
    }

    /// True if the pages are still locked.
    pub fn is_held(&self) -> bool {
        match self.never {}
    }
}

/// Which pages are in RAM: not known on this platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Residency {
    pages: usize,
}

impl Residency {
    /// False.
    pub fn is_reliable(&self) -> bool {
        false
    }

    /// How many pages were asked about.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// 0: not known.
    pub fn resident_pages(&self) -> usize {
        0
    }

    /// 0: not known.
    pub fn resident_bytes(&self) -> usize {
        0
    }

    /// True for no pages at all.
    pub fn is_full(&self) -> bool {
        self.pages == 0
    }

    /// False: not known.
    pub fn is_resident(&self, _byte: usize) -> bool {
        false
    }

    /// None: not known.
    pub fn resident_ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        std::iter::empty()
    }

    /// Zeros: not known.
    pub fn fractions(&self, count: usize) -> impl ExactSizeIterator<Item = f64> + '_ {
        (0..count.min(self.pages)).map(|_| 0.0)
    }
}

/// A `?` for each part.
impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = f.width().unwrap_or(DEFAULT_WIDTH);
        let known = width.min(self.pages);
        (0..known).try_for_each(|_| f.write_char('?'))?;
        let rest = f.width().map_or(0, |width| width - known);
        (0..rest).try_for_each(|_| f.write_char(' '))
    }
}

/// Page faults: not counted on this platform.
pub mod faults {
    use std::fmt;
    use std::ops::Sub;

    /// Numbers of page faults.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub struct Faults {
        /// Faults that needed no I/O.
        pub minor: u64,
        /// Faults that waited for a device.
        pub major: u64,
    }

    /// 0 and 0: they are not counted here.
    pub fn of_thread() -> Faults {
        Faults::default()
    }

    /// The difference of two counts.
    impl Sub for Faults {
        type Output = Faults;

        fn sub(self, before: Faults) -> Faults {
            Faults {
                minor: self.minor.saturating_sub(before.minor),
                major: self.major.saturating_sub(before.major),
            }
        }
    }

    /// `12 minor, 3 major`
    impl fmt::Display for Faults {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} minor, {} major", self.minor, self.major)
        }
    }
}
