//! Control over the pages behind a value: advice, prefetch, populate, lock, residency. The same on every type.
//!
//! A range is checked once, against the bytes of the value, and turned into pages in one place (`span.rs`). Nothing
//! in this directory changes a byte, so all of it is safe while others read, and while a copy takes the place of a
//! leased file: advice may be lost then, locks are not.

mod advice;
mod huge;
mod lock;
mod populate;
mod prefetch;
mod span;

pub use advice::Advice;
pub use lock::LockGuard;
pub use prefetch::Prefetch;

use crate::error::{Error, Result};
use crate::locked_pages::LockedPages;
use crate::region::Region;
use crate::residency::Residency;
use crate::{page, range, sys};
use advice::Rounding;
use span::{Span, chunks};
use std::io;
use std::ops::{Range, RangeBounds};
use std::path::Path;

/// Pages in one mincore(2) of [`are_resident`]: 4 MiB of them, and a buffer that fits on the stack.
const MINCORE_PAGES_ON_STACK: usize = 1 << 10;

/// The pages behind a value, to query and to control; returned by the `pages` method of every type.
///
/// Ranges count bytes of the value from its first (bytes, not elements, also for a [`Shared`](crate::Shared) slice) and
/// may be any [`RangeBounds`]. An empty one does nothing. A range is widened to whole pages, except where [`Advice`]
/// says otherwise, and never past the mapping.
///
/// Small files and streams are read into a block of the heap, whose pages can hold other blocks of the program. There,
/// advice and prefetching do nothing, and locking is an error.
///
/// # Examples
/// ```
/// let bytes = stillmap::Snapshot::open("Cargo.toml")?;
/// bytes.pages().populate(..)?;
/// println!("{:60}", bytes.pages().residency(..)?);
/// # Ok::<(), stillmap::Error>(())
/// ```
///
/// ```text
///   page      page      page      page      page
///   |<----------------- a mapping --------------->|
///   |   |<-------------- the value ---------->|   |
///           |<--- a range --->|
///   |<- pages that hold it -->|   rounded outward
///             |<----->|           rounded inward: pages that hold nothing else
/// ```
// It holds addresses and no `Region`: the mapping of a leased file may be replaced at any moment.
#[derive(Clone, Copy, Debug)]
pub struct Pages<'a> {
    span: Span,
    origin: Origin,
    /// Whether faults read from a disk.
    on_disk: bool,
    /// Which of them are locked; `None` where they cannot be, and for an empty mapping.
    locked: Option<&'a LockedPages>,
    /// What errors name.
    path: Option<&'a Path>,
}

/// The memory behind the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A block of the heap: its pages may hold other blocks.
    Heap,
    /// Writable memory of this process.
    Memory,
    /// Read-only memory of this process, or a file that it may write to.
    Own,
    /// A file that this process may not be allowed to write to.
    File,
}

/// Which constructor fits: `memory` for writable memory without a file; `own` for memory that is only read, and for
/// files that this process has open for writing or made itself; `file` for any other; `heap` for what was not mapped.
impl<'a> Pages<'a> {
    /// A block of the heap.
    pub(crate) fn heap<T: ?Sized>(bytes: &'a T) -> Self {
        Pages::new(bytes, Origin::Heap)
    }

    /// A mapping of memory that may be faulted in by writing, in pages of `page_size` bytes.
    pub(crate) fn memory<T: ?Sized>(bytes: &'a T, page_size: usize) -> Self {
        let mut pages = Pages::new(bytes, Origin::Memory);
        pages.span.page_size = page_size;
        pages
    }

    /// A mapping of memory that is only read, or of a file that this process may write to.
    pub(crate) fn own<T: ?Sized>(bytes: &'a T) -> Self {
        Pages::new(bytes, Origin::Own)
    }

    /// A mapping of any other file.
    pub(crate) fn file<T: ?Sized>(bytes: &'a T) -> Self {
        Pages::new(bytes, Origin::File)
    }

    /// The first `len` bytes of a mapping of a file, into which there may be no reference.
    pub(crate) fn unreferenced(region: &'a Region, len: usize) -> Self {
        let pages = Pages::from_addresses(region.addresses().start, len, Origin::File);
        pages.with_locks(region.locked_pages())
    }

    /// The same, of a file on a disk: the kernel may evict its pages when it needs the memory.
    pub(crate) fn on_disk(self) -> Self {
        Pages {
            on_disk: true,
            ..self
        }
    }

    /// The same, with the locks of the mapping.
    pub(crate) fn with_locks(self, locked: Option<&'a LockedPages>) -> Self {
        Pages { locked, ..self }
    }

    /// The same, with a path for errors.
    pub(crate) fn with_path(self, path: Option<&'a Path>) -> Self {
        Pages { path, ..self }
    }

    fn new<T: ?Sized>(bytes: &'a T, origin: Origin) -> Self {
        let start = std::ptr::from_ref(bytes).cast::<u8>().addr();
        Pages::from_addresses(start, size_of_val(bytes), origin)
    }

    fn from_addresses(start: usize, len: usize, origin: Origin) -> Self {
        Pages {
            span: Span {
                start,
                len,
                page_size: page::size(),
            },
            origin,
            on_disk: false,
            locked: None,
            path: None,
        }
    }
}

impl<'a> Pages<'a> {
    /// Gives the kernel advice about a range. No advice changes a byte.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Os`] where the kernel does not know the advice ([`Advice::is_supported`]) or
    /// refuses it for such pages.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Advice;
    /// let secrets = stillmap::Anonymous::new(4096)?;
    /// secrets.pages().advise(.., Advice::DontDump)?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "madvise")]
    pub fn advise<R: RangeBounds<usize>>(&self, range: R, advice: Advice) -> Result<()> {
        let pages = self.span.in_range(range, advice.rounding())?;
        let done = match (self.origin, advice) {
            // These pages hold other blocks too.
            (Origin::Heap, _) => Ok(()),
            (_, Advice::WillNeed) => populate::read_ahead(pages),
            _ => sys::pages::advise(pages, advice.code()),
        };
        done.map_err(|e| self.error(e))
    }

    /// Reads a range into memory in the background, so that the caller waits less when it touches the pages.
    ///
    /// For 2 MiB and more of a file on a disk (in a [`Snapshot`](crate::Snapshot), [`Private`](crate::Private) or
    /// [`Exclusive`](crate::Exclusive)) this returns at once: the guard has a thread (`stillmap-prefetch`) that faults the
    /// pages in, until the guard is dropped. Of a range that is longer than half of the available memory it reads that much
    /// from the front. While the thread runs, [`fork::scope`](crate::fork::scope) fails with
    /// [`Error::MultiThreaded`].
    ///
    /// For any other range it is [`Advice::WillNeed`], which returns when the reads were started (0.2 ms and more for each MiB
    /// that is not in RAM). The range is advised in pieces, since one `MADV_WILLNEED` reads no more than the readahead of the
    /// device or its largest request, however long its range.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Os`] for what the kernel refused.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::open("Cargo.toml")?;
    /// let _prefetch = bytes.pages().prefetch(..)?;
    /// let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
    /// assert!(lines > 10);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "MADV_WILLNEED")]
    pub fn prefetch<R: RangeBounds<usize>>(&self, range: R) -> Result<Prefetch<'a>> {
        let mut pages = self.span.in_range(range, Rounding::Outward)?;
        if self.on_disk {
            pages = populate::fitting_memory(pages);
        }
        if self.origin == Origin::Heap {
            return Ok(Prefetch::finished());
        }
        // In a file in memory, a fault would make a page where there is a hole.
        if self.on_disk && pages.len() >= populate::BACKGROUND_MIN {
            if let Ok(prefetch) = Prefetch::start(pages.clone()) {
                return Ok(prefetch);
            }
        }
        let done = populate::read_ahead(pages);
        done.map(|()| Prefetch::finished())
            .map_err(|e| self.error(e))
    }

    /// Faults a range in now, so that touching it later does not wait.
    ///
    /// Memory is allocated as if it were written to, in huge pages where they were asked for. Pages of a file are faulted
    /// in for reading, so that none becomes dirty: the first store to each still faults, unless
    /// [`Advice::PopulateWrite`] was given. The kernel may drop pages again when memory gets short: [`lock`](Pages::lock)
    /// keeps them. Other threads can map and unmap every 16 MiB.
    ///
    /// Before Linux 5.14 it only starts reading, as [`Advice::WillNeed`].
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::PagesLost`] where the device failed or the file was truncated, so that touching
    /// the page would have been a signal; [`Error::Os`] for other failures. A part of the range may be
    /// faulted in then.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Anonymous::new(1 << 20)?;
    /// memory.pages().populate(..1 << 19)?;
    /// assert_eq!(memory.pages().residency(..)?.resident_bytes(), 1 << 19);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("MADV_POPULATE_READ", "MADV_POPULATE_WRITE", "MAP_POPULATE"))]
    pub fn populate<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        let pages = self.span.in_range(range, Rounding::Outward)?;
        let mut chunks = chunks(pages, populate::POPULATE_CHUNK);
        chunks.try_for_each(|chunk| self.populate_chunk(chunk))
    }

    /// Faults a range in and keeps it in RAM until the guard is dropped. Other threads can map and unmap every 16 MiB.
    ///
    /// # Errors
    /// [`Error::Os`] naming mlock(2), where `RLIMIT_MEMLOCK` allows no more (8 MiB since Linux 5.16, unless privileged);
    /// [`Error::Unsupported`] for bytes in the heap, whose pages hold other values too: copy them to an
    /// [`Anonymous`](crate::Anonymous); the errors of [`populate`](Pages::populate). Nothing is locked then.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Anonymous::new(4096)?;
    /// let locked = memory.pages().lock(..)?;
    /// assert!(memory.pages().is_resident(..)?);
    /// drop(locked);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "mlock")]
    pub fn lock<R: RangeBounds<usize>>(&self, range: R) -> Result<LockGuard<'a>> {
        let pages = self.span.in_range(range, Rounding::Outward)?;
        if self.locked.is_none() && !pages.is_empty() {
            return Err(Error::unsupported(self.path, "locking bytes in the heap"));
        }
        let mut locked = LockGuard::empty(self.locked, pages.start);
        for chunk in span::chunks(pages, populate::POPULATE_CHUNK) {
            // Faulted in here, where no other lock waits for it, and where a lost page differs from a limit.
            self.populate_chunk(chunk.clone())?;
            locked
                .extend(chunk.end)
                .map_err(|e| Error::os("mlock", self.path, e))?;
        }
        Ok(locked)
    }

    /// Which pages of a range are in RAM: pages of memory that were allocated, pages of a file that the kernel has
    /// cached, whichever process had them read. Pages that are being read in are not there yet.
    ///
    /// [`Residency::is_reliable`] is false where the kernel does not answer.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Os`] if there is no memory for the answer.
    ///
    /// # Examples
    /// ```
    /// use stillmap::page;
    /// let mut memory = stillmap::Anonymous::new(10 * page::size())?;
    /// memory[3 * page::size()] = 1;
    /// assert_eq!(memory.pages().residency(..)?.resident_pages(), 1);
    /// assert_eq!(memory.pages().residency(4 * page::size()..)?.resident_pages(), 0);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("mincore", "fincore"))]
    pub fn residency<R: RangeBounds<usize>>(&self, range: R) -> Result<Residency> {
        let bytes = range::check(range, self.span.len)?;
        let pages = self.span.small_pages(&bytes);
        let residency =
            Residency::query(pages.clone(), self.span.start, bytes, sys::pages::mincore)?;
        // Where mincore(2) is not reliable, it reports every page as resident.
        if residency.is_full() && !self.is_truthful(pages.start, residency.pages()) {
            return Ok(residency.into_unknown());
        }
        Ok(residency)
    }

    /// Whether all pages of a range are in RAM, so that touching them reads from no device; false where that is not
    /// known. It stops at the first page that is not, and allocates nothing.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    ///
    /// # Examples
    /// ```
    /// use stillmap::page;
    /// let mut memory = stillmap::Anonymous::new(2 * page::size())?;
    /// memory[0] = 1;
    /// assert!(memory.pages().is_resident(..page::size())?);
    /// assert!(!memory.pages().is_resident(..)?);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "mincore")]
    pub fn is_resident<R: RangeBounds<usize>>(&self, range: R) -> Result<bool> {
        let bytes = range::check(range, self.span.len)?;
        let pages = self.span.small_pages(&bytes);
        let count = pages.len() / page::size();
        Ok(are_resident(pages.clone()) && self.is_truthful(pages.start, count))
    }

    /// How many bytes are mapped by huge pages now.
    ///
    /// Exact since Linux 6.7. Before that, where the kernel has merged the mapping with a neighbour, it can be too high.
    ///
    /// # Errors
    /// [`Error::Os`] if `/proc` cannot be read.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Anonymous, HugePages};
    /// let memory = Anonymous::options().huge_pages(HugePages::Never).populate(true).allocate(8 << 20)?;
    /// assert_eq!(memory.pages().huge_bytes()?, 0);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("PAGEMAP_SCAN", "AnonHugePages"))]
    pub fn huge_bytes(&self) -> Result<usize> {
        let pages = self.span.small_pages(&(0..self.span.len));
        if pages.is_empty() {
            return Ok(0);
        }
        huge::bytes(pages)
    }

    fn populate_chunk(&self, chunk: Range<usize>) -> Result<()> {
        // Memory that is faulted in for reading gets the shared page of zeros, and no huge page.
        let advice = match self.origin {
            Origin::Memory => Advice::PopulateWrite,
            Origin::Heap | Origin::Own | Origin::File => Advice::PopulateRead,
        };
        populate::fault_in(chunk, advice).map_err(|e| self.error(e))
    }

    /// Whether mincore(2) is reliable for `count` pages, all of which it reports as resident.
    fn is_truthful(&self, start: usize, count: usize) -> bool {
        let is_suspect = self.origin == Origin::File && count > 0;
        !is_suspect || sys::pages::mincore_is_truthful(start) == Some(true)
    }

    /// The error of a madvise(2) that was refused: `EFAULT` where touching the page would raise a signal.
    fn error(&self, source: io::Error) -> Error {
        let of_file = matches!(self.origin, Origin::File | Origin::Own);
        match source.raw_os_error() {
            Some(libc::EFAULT) if of_file => Error::pages_lost(self.path),
            _ => Error::os("madvise", self.path, source),
        }
    }
}

/// Whether all of these pages are in RAM, as far as mincore(2) says.
fn are_resident(pages: Range<usize>) -> bool {
    let mut answers = [0; MINCORE_PAGES_ON_STACK];
    chunks(pages, answers.len() * page::size()).all(|chunk| {
        let answers = &mut answers[..chunk.len() / page::size()];
        sys::pages::mincore(chunk.start, answers).is_ok()
            && answers.iter().all(|page| page & 1 == 1)
    })
}
