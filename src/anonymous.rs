//! Zeroed memory without a file. Each page takes RAM when it is first touched.

use crate::atfork::{self, NotForChildren};
use crate::buffer::Buffer;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::enums::HugePages;
use crate::error::{Error, Result};
use crate::held::Held;
use crate::options::setters;
use crate::page;
use crate::pages::Pages;
use crate::range::{self, whole_pages};
use crate::region::Region;
use crate::snapshot::Snapshot;
use crate::sys::file;
use crate::sys::limits;
use crate::sys::memory::{Address, PageKind};
use crate::sys::write;
use std::fs::File;
use std::io;
use std::ops::{Range, RangeBounds};
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::NonNull;
use std::slice::ChunksMut;

/// Zeroed memory of any length: address space at once, RAM at the first touch of each page, and RAM back at once when
/// it is discarded or dropped.
///
/// ```text
///   start, on a page            start + len        end of the last page
///   |<---------- the bytes ----------->|<-- zeros, never shown -->|
/// ```
///
/// # Examples
/// ```
/// let mut memory = stillmap::Anonymous::new(1 << 30)?; // 1 GiB of addresses, no RAM yet
/// memory[123_456_789] = 7; // one page of RAM
/// memory.resize(2 << 30)?;
/// assert_eq!(memory[123_456_789], 7);
/// memory.discard(..)?; // no RAM again
/// assert_eq!(memory[123_456_789], 0);
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Anonymous {
    /// Dropped before the region: it unregisters what is unmapped next.
    shared: Option<Memfd>,
    region: Region,
    len: usize,
    huge_pages: HugePages,
    /// The length of the mapping is a multiple of this, in bytes.
    page_size: usize,
}

/// The file of shared memory.
struct Memfd {
    /// It cannot shrink (`F_SEAL_SHRINK`), so no page is ever lost under a mapping of it; and unlike
    /// `MAP_SHARED|MAP_ANONYMOUS` it can grow.
    file: File,
    not_for_children: NotForChildren,
}

/// Options for allocating an [`Anonymous`]; made by [`Anonymous::options`].
///
/// # Examples
/// ```
/// let memory = stillmap::Anonymous::options().shared(true).populate(true).allocate(4096)?;
/// assert_eq!(memory.len(), 4096);
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct AnonymousOptions {
    huge_pages: HugePages,
    populate: bool,
    shared: bool,
    address: Address,
}

setters! {
    impl AnonymousOptions;

    /// The kind of pages; default [`HugePages::System`].
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Anonymous, HugePages};
    /// let table = Anonymous::options().huge_pages(HugePages::Transparent).allocate(64 << 20)?;
    /// table.pages().populate(..)?;
    /// println!("{} of 64 MiB in huge pages", table.pages().huge_bytes()? >> 20);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn huge_pages(how: HugePages) { huge_pages = how; }

    /// Whether to fault in all pages before returning; default false.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Anonymous;
    /// let memory = Anonymous::options().populate(true).allocate(1 << 20)?;
    /// assert!(memory.pages().residency(..)?.is_full());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn populate(enable: bool) { populate = enable; }

    /// Whether forked children share the memory (`MAP_SHARED`) rather than get a copy of it; default false.
    ///
    /// # Examples
    /// ```
    /// let mut memory = stillmap::Anonymous::options().shared(true).allocate(1)?;
    /// stillmap::fork::scope(|s| s.spawn_with(&mut memory[..], |all| all[0] = 7).map(drop))??;
    /// assert_eq!(memory[0], 7);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn shared(enable: bool) { shared = enable; }

    /// A hint for the address; the kernel chooses another if it is in use.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Anonymous;
    /// let first = Anonymous::new(4096)?;
    /// let second = Anonymous::options().hint_address(first.as_ptr().addr() + (1 << 30)).allocate(4096)?;
    /// assert_ne!(first.as_ptr(), second.as_ptr());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn hint_address(address: usize) { address = Address::Hint(page::align_down(address)); }

    /// The exact address; a mapping that is there is not replaced (`MAP_FIXED_NOREPLACE`, Linux 4.17). A later
    /// [`Anonymous::resize`] may move it.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Anonymous, Error};
    /// let first = Anonymous::new(4096)?;
    /// let address = first.as_ptr().addr();
    /// let taken = Anonymous::options().fixed_address(address).allocate(4096);
    /// assert!(matches!(taken, Err(Error::AddressTaken { .. })));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn fixed_address(address: usize) { address = Address::Fixed(address); }
}

impl AnonymousOptions {
    /// Allocates `len` bytes: any number, including 0.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if no address space could hold it; [`Error::AddressTaken`] and [`Error::Misaligned`] for
    /// [`fixed_address`](AnonymousOptions::fixed_address); [`Error::Unsupported`] for [`HugePages::Reserved`] where the
    /// kernel has no such pool; [`Error::Os`] for what the kernel refused.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Anonymous::options().allocate(100)?;
    /// assert_eq!(&memory[..], [0; 100]);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn allocate(self, len: usize) -> Result<Anonymous> {
        let page_size = self.huge_pages.page_size()?;
        if let Address::Fixed(address) = self.address {
            if address == 0 {
                // The null page cannot be mapped.
                return Err(Error::address_taken(address));
            }
            if address % page_size != 0 {
                return Err(Error::misaligned(address as u64, page_size));
            }
        }
        let shared = if self.shared {
            Some(memfd(self.huge_pages)?)
        } else {
            None
        };
        let mut memory = Anonymous {
            region: Region::empty(),
            len: 0,
            shared,
            huge_pages: self.huge_pages,
            page_size,
        };
        memory.region = memory.map(len, self.address)?;
        memory.len = len;
        memory.register();
        if self.populate {
            memory.populate_all()?;
        }
        Ok(memory)
    }
}

impl HugePages {
    /// Lengths and addresses are multiples of this, in bytes.
    fn page_size(self) -> Result<usize> {
        match self {
            HugePages::Reserved => limits::reserved_page_size().map_err(|e| match e.kind() {
                io::ErrorKind::Unsupported => {
                    Error::unsupported(None, "a pool of reserved huge pages")
                }
                _ => Error::os("open", Some(Path::new("/proc/meminfo")), e),
            }),
            _ => Ok(page::size()),
        }
    }
}

impl Anonymous {
    /// `len` bytes of private memory.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if no address space could hold it; [`Error::Os`] for what the kernel refused.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Anonymous::new(100)?;
    /// assert_eq!(&memory[..], [0; 100]);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "MAP_PRIVATE")]
    pub fn new(len: usize) -> Result<Self> {
        Anonymous::options().allocate(len)
    }

    /// `len` bytes of shared memory: a child of [`fork::scope`](crate::fork::scope) writes to the parts that are passed to
    /// it, and the parent reads what it wrote. The rest of it is not accessible in a forked child, however it was forked.
    ///
    /// A memfd holds it, so it takes a descriptor, and other processes of the same user can reach it through
    /// `/proc` as they can reach any memory of this process.
    ///
    /// # Errors
    /// As [`new`](Anonymous::new).
    ///
    /// # Examples
    /// ```
    /// let mut memory = stillmap::Anonymous::shared(4096)?;
    /// memory[0] = 1;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "MAP_SHARED")]
    pub fn shared(len: usize) -> Result<Self> {
        Anonymous::options().shared(true).allocate(len)
    }

    /// Options: huge pages, placement, sharing.
    ///
    /// # Examples
    /// ```
    /// let near = stillmap::Anonymous::options().hint_address(0x5000_0000_0000).allocate(1)?;
    /// assert_eq!(near[0], 0);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn options() -> AnonymousOptions {
        AnonymousOptions::default()
    }

    /// Makes it longer or shorter; it may move. New bytes are zero, and the RAM of removed bytes is freed at once. A process
    /// that shares the memory keeps its own length.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or [`Error::Os`]; [`Error::WrongProcess`] for shared memory in a forked child. The memory is then
    /// as it was.
    ///
    /// # Examples
    /// ```
    /// let mut memory = stillmap::Anonymous::new(10)?;
    /// memory.fill(7);
    /// memory.resize(5)?;
    /// memory.resize(10)?;
    /// assert_eq!(&memory[..], [7, 7, 7, 7, 7, 0, 0, 0, 0, 0]);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias = "mremap")]
    pub fn resize(&mut self, len: usize) -> Result<()> {
        if len < self.len {
            // Removed bytes must read as zero if the memory grows again.
            self.discard(len..self.len)?;
        }
        self.check_process()?;
        let shared = self.shared.as_ref();
        let _no_fork = shared.map(|memfd| memfd.not_for_children.clear_range());
        let resized = self.change_len(len);
        self.register();
        resized
    }

    /// Denies forked children access to shared memory, except to the parts that `fork::scope` passes to them.
    fn register(&self) {
        if let Some(memfd) = &self.shared {
            let addresses = self.region.addresses();
            let not_for_children = &memfd.not_for_children;
            not_for_children.set_lendable(addresses, self.len, self.page_size);
        }
    }

    /// A forked child has no access to the bytes of its parent's shared memory, and must not discard them.
    fn check_process(&self) -> Result<()> {
        match &self.shared {
            Some(memfd) if !memfd.not_for_children.is_of_this_process() => {
                Err(Error::wrong_process(None))
            }
            _ => Ok(()),
        }
    }

    fn change_len(&mut self, len: usize) -> Result<()> {
        let page_size = self.page_size;
        let pages = whole_pages(len, page_size)?;
        if pages > self.region.len() {
            self.grow(len, pages)?;
        } else {
            // Splitting a mapping in two can exceed vm.max_map_count; then the rest stays mapped, without pages.
            let _ = self.region.resize(pages, page_size);
        }
        self.len = len;
        Ok(())
    }

    fn grow(&mut self, len: usize, pages: usize) -> Result<()> {
        let can_move = self.region.len() > 0 && self.huge_pages != HugePages::Reserved;
        if can_move {
            self.grow_memfd(pages)?;
            return self.region.resize(pages, page::size());
        }
        // Nothing is mapped yet, or the kernel does not grow mappings of reserved pages.
        let mut larger = self.map(len, Address::Anywhere)?;
        if self.shared.is_none() {
            // SAFETY: private anonymous memory of ours, made in the line above.
            #[allow(unsafe_code)]
            let to = unsafe { larger.uninit_slice_mut(0..self.len) };
            for (to, from) in to.iter_mut().zip(self.iter()) {
                to.write(*from);
            }
        }
        self.region = larger;
        Ok(())
    }

    /// Gives the RAM of a range back now; the bytes read as zero from here on, in every process that shares them.
    ///
    /// Pages that lie in it only in part are zeroed and stay, as do pages that are locked, and those of
    /// [`HugePages::Reserved`]: they are promised to this memory until it is dropped.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::WrongProcess`] for shared memory in a forked child.
    ///
    /// # Examples
    /// ```
    /// let mut memory = stillmap::Anonymous::new(1 << 20)?;
    /// memory.fill(7);
    /// memory.discard(1..)?;
    /// assert_eq!((memory[0], memory[1]), (7, 0));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[doc(alias("MADV_DONTNEED", "MADV_REMOVE"))]
    pub fn discard<R: RangeBounds<usize>>(&mut self, range: R) -> Result<()> {
        let range = range::check(range, self.len)?;
        self.check_process()?;
        let pages = self.pages_inside(&range);
        let shared = self.shared.is_some();
        // Another process may take a page that went back to the pool; touching it again would be a SIGBUS.
        let reserved = self.huge_pages == HugePages::Reserved;
        if reserved || pages.is_empty() || self.region.discard(pages.clone(), shared).is_err() {
            self[range].fill(0);
            return Ok(());
        }
        let behind = pages.end.min(range.end);
        self[range.start..pages.start].fill(0);
        self[behind..range.end].fill(0);
        Ok(())
    }

    /// Chunks of at least `len` bytes, each of them whole pages, to be passed to forked children
    /// ([`fork::Scope::spawn_with`](crate::fork::Scope::spawn_with)). The last one is shorter.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Anonymous, page};
    /// let mut memory = Anonymous::shared(3 * page::size())?;
    /// let chunks = memory.page_chunks_mut(page::size() + 1).map(|chunk| chunk.len());
    /// assert!(chunks.eq([2 * page::size(), page::size()]));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn page_chunks_mut(&mut self, len: usize) -> ChunksMut<'_, u8> {
        let pages = len.max(1).checked_next_multiple_of(self.page_size);
        self.chunks_mut(pages.unwrap_or(usize::MAX))
    }

    /// In a forked child of the process that allocated it: makes shared memory accessible again, which it is not in a
    /// child. Private memory always is.
    ///
    /// # Errors
    /// [`Error::Os`] if the kernel refuses it.
    ///
    /// # Safety
    /// As long as both processes live, no byte is used through a `&mut` in one of them and in any way in another.
    ///
    /// # Examples
    /// ```
    /// let mut memory = stillmap::Anonymous::shared(1)?;
    /// // A child made by fork(2) would do this.
    /// // SAFETY: there is no other process.
    /// unsafe { memory.allow_in_child() }?;
    /// memory[0] = 1;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn allow_in_child(&mut self) -> Result<()> {
        match &self.shared {
            Some(memfd) if self.len > 0 && !memfd.not_for_children.is_of_this_process() => {
                // SAFETY: the caller promises that no other process uses the bytes.
                unsafe { atfork::lend(self.region.addresses()) }
            }
            _ => Ok(()),
        }
    }

    /// The pages that hold bytes of the range only. The unused end of the last page counts as part of it.
    fn pages_inside(&self, range: &Range<usize>) -> Range<usize> {
        let page_size = self.page_size;
        let start = range.start.next_multiple_of(page_size);
        let end = if range.end == self.len {
            range.end.next_multiple_of(page_size)
        } else {
            range.end - range.end % page_size
        };
        start..end.max(start)
    }

    /// A mapping of `len` bytes with the properties of this value.
    fn map(&self, len: usize, address: Address) -> Result<Region> {
        let pages = whole_pages(len, self.page_size)?;
        if pages == 0 {
            return Ok(Region::empty());
        }
        self.grow_memfd(pages)?;
        let region = match (&self.shared, self.huge_pages, address) {
            (Some(memfd), HugePages::Reserved, _) => {
                Region::shared(memfd.file.as_fd(), pages, address, PageKind::Reserved)
            }
            (Some(memfd), _, _) => {
                Region::shared(memfd.file.as_fd(), pages, address, PageKind::Zeroed)
            }
            (None, HugePages::Reserved, _) => {
                Region::anonymous_at(pages, address, PageKind::Reserved)
            }
            (None, HugePages::Transparent, Address::Anywhere) => {
                return Region::with_huge_pages(pages);
            }
            (None, _, _) => Region::anonymous_at(pages, address, PageKind::Zeroed),
        }
        .map_err(|error| map_eexist(error, address))?;
        if let Address::Fixed(address) = address {
            // Before Linux 4.17 the flag is not known, and the address only a hint.
            if region.start().as_ptr().addr() != address {
                return Err(Error::address_taken(address));
            }
        }
        let advice = match self.huge_pages {
            HugePages::Transparent => Some(libc::MADV_HUGEPAGE),
            HugePages::Never => Some(libc::MADV_NOHUGEPAGE),
            HugePages::System | HugePages::Reserved => None,
        };
        if let Some(advice) = advice {
            // A kernel without huge pages refuses both, and gives small pages.
            let _ = region.advise(0..region.len(), advice);
        }
        Ok(region)
    }

    /// Extends the memfd, if there is one, to at least this many bytes.
    fn grow_memfd(&self, pages: usize) -> Result<()> {
        let Some(memfd) = &self.shared else {
            return Ok(());
        };
        let error = |e| Error::os("ftruncate", None, e).with_len(pages);
        let size = file::stat(memfd.file.as_fd()).map_err(error)?.size;
        if size < pages as u64 {
            write::set_len(&memfd.file, pages as u64).map_err(error)?;
        }
        Ok(())
    }

    /// Faults every page in.
    fn populate_all(&mut self) -> Result<()> {
        let all = 0..self.region.len();
        match self.region.advise(all, libc::MADV_POPULATE_WRITE) {
            // Linux before 5.14: touch every page.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                let page = page::size();
                for byte in self.iter_mut().step_by(page) {
                    *byte = std::hint::black_box(0);
                }
                Ok(())
            }
            other => other.map_err(|e| Error::os("madvise", None, e)),
        }
    }

    /// Advice, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```
    /// let memory = stillmap::Anonymous::new(1 << 20)?;
    /// assert_eq!(memory.pages().residency(..)?.resident_bytes(), 0);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        self.pages_of(self.len)
    }

    /// The pages of the first `len` bytes.
    pub(crate) fn pages_of(&self, len: usize) -> Pages<'_> {
        let pages = Pages::memory(&self[..len], self.page_size);
        pages.with_locks(self.region.locked_pages())
    }

    /// Makes the memory read-only. Private memory stays in place and only changes its protection; shared memory is copied,
    /// since a forked child may still hold it writable.
    ///
    /// # Errors
    /// [`Error::Os`] if there is no memory for the copy, or the protection cannot be changed. The bytes are dropped then.
    ///
    /// # Examples
    /// ```
    /// let mut memory = stillmap::Anonymous::new(3)?;
    /// memory.copy_from_slice(b"abc");
    /// let frozen = memory.freeze()?;
    /// assert_eq!(&frozen[..], b"abc");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn freeze(self) -> Result<Snapshot> {
        let memory = if self.is_shared() {
            Buffer::copy_of(&self)?
        } else {
            let (mut region, len) = self.into_region();
            region.protect_read_only()?;
            Buffer::from_region(region, len)
        };
        Ok(Snapshot::from_held(Held::buffer(memory)))
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The memfd behind shared memory.
    pub(crate) fn memfd(&self) -> Option<&File> {
        self.shared.as_ref().map(|memfd| &memfd.file)
    }

    pub(crate) fn into_region(self) -> (Region, usize) {
        (self.region, self.len)
    }
}

fn memfd(huge_pages: HugePages) -> Result<Memfd> {
    let memfd = match huge_pages {
        HugePages::Reserved => file::memfd_of_reserved_pages(c"stillmap"),
        _ => file::memfd(c"stillmap"),
    };
    let memfd = memfd.map_err(|e| Error::os("memfd_create", None, e))?;
    let sealed = file::add_seals(memfd.as_fd(), libc::F_SEAL_SHRINK);
    sealed.map_err(|e| Error::os("fcntl", None, e))?;
    Ok(Memfd {
        file: memfd,
        not_for_children: NotForChildren::new()?,
    })
}

fn map_eexist(error: Error, address: Address) -> Error {
    match address {
        Address::Fixed(address) if error.raw_os_error() == Some(libc::EEXIST) => {
            Error::address_taken(address)
        }
        _ => error,
    }
}

// SAFETY:
// - `len` bytes are mapped from the start on, readable, and initialised: anonymous memory is zeroed.
// - Only `&mut self`, and forked children to which it was lent, change them; moving the value does not move them.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Anonymous {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        (self.region.start(), self.len)
    }
}

impl_byte_slice!(Anonymous, debug: is_shared);
impl_byte_slice_mut!(Anonymous);
