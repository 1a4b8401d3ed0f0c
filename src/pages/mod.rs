//! What one wants to tell the kernel about pages, and to see of them: the same on every type.
//!
//! A range is checked once, against the bytes of the value, and turned into pages in one place (`pages.rs`). Nothing
//! in this room changes a byte, so all of it is safe while others read, and while the keeper puts other pages with the
//! same bytes under a mapping: advice may be lost then, locks are not.

mod advice;
pub mod faults;
mod huge;
mod lock;
pub(crate) mod lock_table;
pub(crate) mod prefetch;
mod range;
mod residency;

pub use advice::Advice;
pub use lock::LockGuard;
pub use residency::Residency;

use crate::error::Result;
use std::ops::RangeBounds;

/// Pages at will, on every type of this crate: what is in RAM, bring it in, keep it there, let it go.
///
/// Ranges count bytes of the value, from its first (of shared numbers too: bytes, not elements),
/// and may be any [`RangeBounds`]; an empty one does nothing. They are widened to whole pages, except where
/// [`Advice`] says otherwise, and never past the mapping.
///
/// Small files and streams are read into a block of the heap. Its pages can hold blocks of others as well: advice and
/// prefetching do nothing there, the rest works as everywhere.
///
/// This trait is sealed.
///
/// # Examples
/// ```
/// use stillmap::Mapping;
/// let bytes = stillmap::open("Cargo.toml")?;
/// bytes.populate(..)?;
/// println!("{:60}", bytes.residency()?);
/// # Ok::<(), stillmap::Error>(())
/// ```
pub trait Mapping: sealed::HasPages {
    /// Tells the kernel about a range. Nothing here changes a byte.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds); [`Error::Os`](crate::Error::Os) where the kernel does not
    /// know the advice ([`Advice::is_supported`]) or has no use for it on such pages.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Advice, Mapping};
    /// let secrets = stillmap::Anonymous::new(4096)?;
    /// secrets.advise(.., Advice::DontDump)?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "madvise")]
    fn advise<R: RangeBounds<usize>>(&self, range: R, advice: Advice) -> Result<()> {
        self.pages().advise(range, advice)
    }

    /// Reads a range in while the caller does something else: what comes from a file or from swap will be there sooner.
    ///
    /// For 2 MiB and more of a file on a disk (in a [`Snapshot`](crate::Snapshot), [`Private`](crate::Private) or
    /// [`Exclusive`](crate::Exclusive)) this returns at once: a thread of this crate (`stillmap-prefetch`) faults the pages
    /// in, one range after the other, and ends with the last one or when the mapping is dropped. Of a range that is longer
    /// than half of the memory that is available it takes as much from the front. It hears of no error: touching a page
    /// that it did not get tries again.
    ///
    /// Elsewhere it is [`Advice::WillNeed`], which enters the pages before it returns (0.2 ms and more for each MiB that is
    /// not in RAM), in pieces, since one `MADV_WILLNEED` reads no more than the readahead of the device or its largest
    /// request, however long its range.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds); [`Error::Os`](crate::Error::Os) for what the kernel refused.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Mapping;
    /// let bytes = stillmap::open("Cargo.toml")?;
    /// bytes.prefetch(..)?;
    /// let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
    /// assert!(lines > 10);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "MADV_WILLNEED")]
    fn prefetch<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        self.pages().prefetch(range)
    }

    /// Faults a range in now, so that touching it later waits for nothing; memory is granted as if it were written to,
    /// in huge pages where they were asked for. Pages of a file are faulted in for reading, so that none becomes dirty:
    /// the first store to each is a fault still, and [`Advice::PopulateWrite`] brings that forward. Pages can go again
    /// when RAM gets short: [`lock`](Mapping::lock) keeps them. Other threads are let in every 16 MiB.
    ///
    /// Before Linux 5.14 it only starts reading, as [`prefetch`](Mapping::prefetch).
    ///
    /// # Errors
    /// [`Error::OutOfBounds`](crate::Error::OutOfBounds); [`Error::Faulted`](crate::Error::Faulted) where the device
    /// failed or the file was truncated, which would have been a signal at the touch;
    /// [`Error::Os`](crate::Error::Os) for what else the kernel refused. Part of the range may be faulted in then.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Mapping;
    /// let memory = stillmap::Anonymous::new(1 << 20)?;
    /// memory.populate(..1 << 19)?;
    /// assert_eq!(memory.residency()?.resident_bytes(), 1 << 19);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("MADV_POPULATE_READ", "MADV_POPULATE_WRITE", "MAP_POPULATE"))]
    fn populate<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        self.pages().populate(range)
    }

    /// Faults a range in and keeps it in RAM until the guard is dropped. Other threads are let in every 16 MiB.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) naming mlock(2), where `RLIMIT_MEMLOCK` allows no more (8 MiB since Linux 5.16,
    /// unless privileged); what [`populate`](Mapping::populate) gives. Nothing is locked then.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Mapping;
    /// let memory = stillmap::Anonymous::new(4096)?;
    /// let locked = memory.lock(..)?;
    /// assert!(memory.residency()?.is_full());
    /// drop(locked);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "mlock")]
    fn lock<R: RangeBounds<usize>>(&self, range: R) -> Result<LockGuard<'_>> {
        self.pages().lock(range)
    }

    /// Which pages are in RAM: of memory those that were granted, of a file those that the kernel keeps, whoever had
    /// them read. Pages that are being read in right now are not there yet.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel is out of memory.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Mapping, page};
    /// let mut memory = stillmap::Anonymous::new(10 * page::size())?;
    /// memory[3 * page::size()] = 1;
    /// assert_eq!(memory.residency()?.resident(), 1);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("mincore", "fincore"))]
    fn residency(&self) -> Result<Residency> {
        self.pages().residency()
    }

    /// How many bytes are mapped by huge pages now.
    ///
    /// Exact since Linux 6.7; before that, of memory that the kernel has merged with its neighbours it is at most what
    /// it says.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if `/proc` cannot be read.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Anonymous, HugePages, Mapping};
    /// let memory = Anonymous::options().huge_pages(HugePages::Never).populate(true).allocate(8 << 20)?;
    /// assert_eq!(memory.huge_bytes()?, 0);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("PAGEMAP_SCAN", "AnonHugePages"))]
    fn huge_bytes(&self) -> Result<usize> {
        self.pages().huge_bytes()
    }
}

/// A type joins [`Mapping`] in its own room, by `impl HasPages` and an empty `impl Mapping`. Which constructor of `Pages`
/// fits: `memory` for writable memory without a file; `own` for memory that is only read, and for files that this process
/// has open for writing or made itself; `file` for any other; `heap` for what was not mapped.
pub(crate) mod sealed {
    pub(crate) use super::range::Pages;

    /// A value whose bytes are in pages.
    pub trait HasPages {
        /// Where they are, now.
        fn pages(&self) -> Pages<'_>;
    }
}
