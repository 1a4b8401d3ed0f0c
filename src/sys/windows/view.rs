//! Views of files and sections.

use super::{Protection, check, raw};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::ptr::{NonNull, null};
use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_COPY, FILE_MAP_READ, FILE_MAP_WRITE, FlushViewOfFile,
    MEMORY_MAPPED_VIEW_ADDRESS, MapViewOfFile, PAGE_READONLY, PAGE_READWRITE, PAGE_WRITECOPY,
    UnmapViewOfFile,
};

/// The offset of a view is a multiple of this (`SYSTEM_INFO::dwAllocationGranularity`, the same on every processor).
pub(super) const GRANULARITY: u64 = 64 << 10;

/// A view of a file, unmapped when it is dropped. It does not keep others from writing to the file.
pub(crate) struct View {
    /// As the call returned it.
    base: NonNull<u8>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the value owns its view; `&View` changes no byte.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Maps `len` bytes, not 0, that are inside the file.
    pub(crate) fn map(
        file: &File,
        offset: u64,
        len: usize,
        protection: Protection,
    ) -> io::Result<Self> {
        let skipped = (offset % GRANULARITY) as usize;
        let mapped = skipped.checked_add(len).ok_or(io::ErrorKind::OutOfMemory)?;
        let section = section_of_file(file, protection)?;
        let offset = offset - skipped as u64;
        let base = map_section(section.as_handle(), offset, mapped, protection)?;
        // SAFETY: `mapped` bytes are there, and `skipped` is less.
        let start = unsafe { base.add(skipped) };
        Ok(View { base, start, len })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// FlushViewOfFile: writes the changed pages to the file system. The range is inside the view.
    pub(crate) fn flush(&self, range: Range<usize>) -> io::Result<()> {
        let start = self.start.as_ptr().wrapping_add(range.start);
        // SAFETY: it changes no byte, and an address that is not in a view is an error.
        let done = unsafe { FlushViewOfFile(start.cast(), range.len()) };
        check(done)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, unmapped here only, and no borrow is left.
        unsafe { unmap(self.base) };
    }
}

/// CreateFileMappingW: a section of a file.
fn section_of_file(file: &File, protection: Protection) -> io::Result<OwnedHandle> {
    let page = match protection {
        Protection::Read => PAGE_READONLY,
        Protection::CopyOnWrite => PAGE_WRITECOPY,
        Protection::Write => PAGE_READWRITE,
    };
    // SAFETY: the handle is open as long as `file` is borrowed; null is allowed for the others.
    let section = unsafe { CreateFileMappingW(raw(file), null(), page, 0, 0, null()) };
    owned(section)
}

pub(super) fn owned(section: HANDLE) -> io::Result<OwnedHandle> {
    check(i32::from(!section.is_null()))?;
    // SAFETY: a call made this handle just now, and nothing else owns it.
    Ok(unsafe { OwnedHandle::from_raw_handle(section) })
}

/// MapViewOfFile, which keeps the section. `offset` is a multiple of [`GRANULARITY`]; a `len` of 0 is all after it.
pub(super) fn map_section(
    section: BorrowedHandle<'_>,
    offset: u64,
    len: usize,
    protection: Protection,
) -> io::Result<NonNull<u8>> {
    let access = match protection {
        Protection::Read => FILE_MAP_READ,
        Protection::CopyOnWrite => FILE_MAP_COPY,
        Protection::Write => FILE_MAP_READ | FILE_MAP_WRITE,
    };
    let (high, low) = ((offset >> 32) as u32, offset as u32);
    // SAFETY: the handle is open. The view is at an address that the call chooses, so no memory of ours is replaced.
    let view = unsafe { MapViewOfFile(section.as_raw_handle(), access, high, low, len) };
    NonNull::new(view.Value.cast()).ok_or_else(io::Error::last_os_error)
}

/// UnmapViewOfFile.
///
/// # Safety
/// `start` was returned by [`map_section`] and not unmapped since, and no reference to the memory is left.
pub(super) unsafe fn unmap(start: NonNull<u8>) {
    let view = MEMORY_MAPPED_VIEW_ADDRESS {
        Value: start.as_ptr().cast(),
    };
    // SAFETY: the caller's promises.
    let done = unsafe { UnmapViewOfFile(view) };
    debug_assert_ne!(done, 0);
}
