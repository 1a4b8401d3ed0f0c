//! A shared, writable mapping of a file, or of a window of it, whose length changes with that of the file.
//!
//! ```text
//!   a page of the file                        the last one of the window
//!   |<- offset_in_page ->|<----------- len ----------->|      |
//!   |<------------------- used ----------------------->|<-- reserved, if there is room for more -->|
//! ```
//! Pages beyond the end of the file are never touched.

use crate::error::Result;
use crate::locked_pages::LockedPages;
use crate::page;
use crate::range::whole_pages;
use crate::region::Region;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

/// The bytes of a file that are mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileWindow {
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// The length that the mapping can have without moving, in bytes.
    pub(crate) reserved: usize,
}

pub(crate) struct MappedFile {
    region: Region,
    /// Offset of the window in the first page.
    offset_in_page: usize,
    window: FileWindow,
}

impl MappedFile {
    pub(crate) fn new(fd: BorrowedFd<'_>, window: FileWindow) -> Result<Self> {
        let (region, offset_in_page) = Region::shared_window(fd, window.offset, window.mapped())?;
        Ok(MappedFile {
            region,
            offset_in_page,
            window,
        })
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    pub(crate) fn locked_pages(&self) -> Option<&LockedPages> {
        self.region.locked_pages()
    }

    /// The start of the window, until it is resized.
    pub(crate) fn start(&self) -> NonNull<u8> {
        let first_page = self.region.start();
        let start = first_page.as_ptr().wrapping_add(self.offset_in_page);
        NonNull::new(start).unwrap_or(first_page)
    }

    /// Offset of the mapping in the file: a multiple of the page size.
    pub(crate) fn offset(&self) -> u64 {
        self.window.offset - self.offset_in_page as u64
    }

    /// Bytes from the start of the mapping to the end of the window.
    pub(crate) fn used(&self) -> usize {
        self.offset_in_page + self.window.len
    }

    /// Changes the length of the window, and by `set_size` that of the file. After an error the window is as it was.
    pub(crate) fn resize(
        &mut self,
        len: usize,
        set_size: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        // A mapping that is longer than the file does no harm, so it grows first, and shrinks last.
        self.make_room(len)?;
        let resized = set_size();
        self.take_len(len, &resized);
        resized
    }

    /// Makes the mapping long enough for a window of `len` bytes.
    pub(crate) fn make_room(&mut self, len: usize) -> Result<()> {
        let mapped = self.mapped_for(len);
        whole_pages(mapped, page::size())?;
        if mapped > self.region.len() {
            self.region.resize(mapped, page::size())?;
        }
        Ok(())
    }

    /// Changes the length of the window, for which there is room, if that of the file could be changed; room that is not
    /// needed is given back.
    pub(crate) fn take_len(&mut self, len: usize, resized: &Result<()>) {
        if resized.is_ok() {
            self.window.len = len;
        }
        let mapped = self.mapped_for(self.window.len);
        let _ = self.region.resize(mapped, page::size());
    }

    /// Bytes to map for a window of `len` bytes.
    fn mapped_for(&self, len: usize) -> usize {
        let window = FileWindow { len, ..self.window };
        window.mapped().saturating_add(self.offset_in_page)
    }

    /// Unmaps everything.
    pub(crate) fn unmap(&mut self) {
        self.region = Region::empty();
    }
}

impl FileWindow {
    /// At least one byte, even beyond the end of the file, so that the mapping can grow.
    fn mapped(&self) -> usize {
        self.len.max(self.reserved).max(1)
    }
}
