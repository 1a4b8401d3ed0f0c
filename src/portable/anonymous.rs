//! Zeroed memory, from the allocator.

use super::memory::Buffer;
use super::pages::Pages;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::enums::HugePages;
use crate::error::{Error, Result};
use crate::options::setters;
use crate::page;
use crate::range;
use std::ops::RangeBounds;
use std::ptr::NonNull;
use std::slice::ChunksMut;

/// Zeroed memory of any length, at the start of a page. The allocator decides when its pages take RAM.
///
/// # Examples
/// ```
/// let mut memory = stillmap::Anonymous::new(1 << 20)?;
/// memory[123_456] = 7;
/// memory.resize(2 << 20)?;
/// assert_eq!(memory[123_456], 7);
/// memory.discard(..)?;
/// assert_eq!(memory[123_456], 0);
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Anonymous {
    memory: Buffer,
}

/// How to allocate an [`Anonymous`]; made by [`Anonymous::options`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct AnonymousOptions {
    huge_pages: HugePages,
    shared: bool,
    at: Option<usize>,
}

setters! {
    impl AnonymousOptions;

    /// Which pages to use; default [`HugePages::System`].
    fn huge_pages(how: HugePages) { huge_pages = how; }

    /// Whether forked children share the memory; here that is [`Error::Unsupported`].
    fn shared(enable: bool) { shared = enable; }

    /// The exact address; here that is [`Error::Unsupported`].
    fn fixed_address(address: usize) { at = Some(address); }

    /// No effect.
    fn populate(_enable: bool) {}

    /// No effect: it is a hint.
    fn hint_address(_address: usize) {}
}

impl AnonymousOptions {
    /// Allocates `len` bytes: any number, including 0.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if no address space could hold it; [`Error::Unsupported`] for an option that the platform does
    /// not have; [`Error::Os`] if the allocator has no more memory.
    pub fn allocate(self, len: usize) -> Result<Anonymous> {
        if self.shared {
            return Err(Error::unsupported(
                None,
                "memory shared with forked children",
            ));
        }
        if self.at.is_some() {
            return Err(Error::unsupported(None, "memory at an address"));
        }
        if self.huge_pages == HugePages::Reserved {
            return Err(Error::unsupported(None, "a pool of reserved huge pages"));
        }
        let memory = Buffer::zeroed(len, page::size())?;
        Ok(Anonymous { memory })
    }
}

impl Anonymous {
    /// Allocates `len` bytes: any number, including 0.
    ///
    /// # Errors
    /// As [`AnonymousOptions::allocate`].
    pub fn new(len: usize) -> Result<Self> {
        Anonymous::options().allocate(len)
    }

    /// Memory that forked children share; here that is [`Error::Unsupported`].
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn shared(len: usize) -> Result<Self> {
        Anonymous::options().shared(true).allocate(len)
    }

    /// Which pages, and where.
    pub fn options() -> AnonymousOptions {
        AnonymousOptions::default()
    }

    /// Makes it longer or shorter; bytes that are new are zero. It may move.
    ///
    /// # Errors
    /// As [`AnonymousOptions::allocate`].
    pub fn resize(&mut self, len: usize) -> Result<()> {
        self.memory.resize(len)
    }

    /// Sets a range to zero.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn discard<R: RangeBounds<usize>>(&mut self, range: R) -> Result<()> {
        let range = range::check(range, self.len())?;
        self[range].fill(0);
        Ok(())
    }

    /// Parts of whole pages, of at least `len` bytes each but for the last.
    pub fn page_chunks_mut(&mut self, len: usize) -> ChunksMut<'_, u8> {
        let pages = page::align_up(len.max(1));
        self.chunks_mut(pages.unwrap_or(usize::MAX))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    ///
    /// # Safety
    /// It does nothing.
    #[allow(unsafe_code)]
    pub unsafe fn allow_in_child(&mut self) -> Result<()> {
        Err(Error::unsupported(
            None,
            "memory shared with forked children",
        ))
    }

    /// Prefetch, populate, lock and residency of its pages, as far as the platform has them.
    pub fn pages(&self) -> Pages<'_> {
        self.memory.pages()
    }

    pub(super) fn into_memory(self) -> Buffer {
        self.memory
    }

    fn is_shared(&self) -> bool {
        false
    }
}

// SAFETY: the bytes of `memory`, which promises the same.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Anonymous {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        self.memory.start_and_len()
    }
}

impl_byte_slice!(Anonymous, debug: is_shared);
impl_byte_slice_mut!(Anonymous);
