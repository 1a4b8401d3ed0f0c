//! Memory that processes share: a section without a file, which a child inherits by its handle.

use super::view::{GRANULARITY, map_section, owned, unmap};
use super::{Protection, check, size};
use std::io;
use std::os::windows::io::{AsHandle, BorrowedHandle, OwnedHandle};
use std::ptr::{NonNull, null, null_mut};
use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, MEM_COMMIT, MEM_MAPPED, MEMORY_BASIC_INFORMATION, PAGE_READWRITE,
    VirtualQuery,
};

/// A view of a whole section. Other processes change its bytes at any moment.
pub(crate) struct Section {
    view: NonNull<u8>,
    handle: OwnedHandle,
}

impl Section {
    /// Views start at a multiple of this.
    pub(crate) const ALIGN: usize = GRANULARITY as usize;

    /// Zeroed memory, with a handle that child processes inherit. `len` is not 0.
    pub(crate) fn create(len: u64) -> io::Result<Self> {
        Section::map(create_section(len)?)
    }

    /// The section of a handle, to read and to write.
    pub(crate) fn open(handle: BorrowedHandle<'_>) -> io::Result<Self> {
        Section::map(handle.try_clone_to_owned()?)
    }

    fn map(handle: OwnedHandle) -> io::Result<Self> {
        // 0 bytes: all of them.
        let view = map_section(handle.as_handle(), 0, 0, Protection::Write)?;
        Ok(Section { view, handle })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.view
    }

    pub(crate) fn handle(&self) -> BorrowedHandle<'_> {
        self.handle.as_handle()
    }

    /// VirtualQuery: how many bytes are mapped to read and write, and have memory (`MEM_COMMIT`).
    pub(crate) fn usable_bytes(&self) -> io::Result<usize> {
        let mut info = MEMORY_BASIC_INFORMATION::default();
        // SAFETY: it looks at no byte of the memory; `info` is writable and has the size that is passed.
        let written = unsafe {
            VirtualQuery(
                self.view.as_ptr().cast(),
                &raw mut info,
                size_of::<MEMORY_BASIC_INFORMATION>(),
            )
        };
        check(i32::from(written != 0))?;
        let is_usable =
            info.State == MEM_COMMIT && info.Type == MEM_MAPPED && info.Protect == PAGE_READWRITE;
        Ok(if is_usable { info.RegionSize } else { 0 })
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, unmapped here only, and no borrow is left.
        unsafe { unmap(self.view) };
    }
}

/// CreateFileMappingW: a section without a file, zeroed, and an inheritable handle. `len` is not 0.
fn create_section(len: u64) -> io::Result<OwnedHandle> {
    let inheritable = SECURITY_ATTRIBUTES {
        nLength: size::<SECURITY_ATTRIBUTES>(),
        lpSecurityDescriptor: null_mut(),
        bInheritHandle: 1,
    };
    let (high, low) = ((len >> 32) as u32, len as u32);
    // SAFETY: no file; the attributes are readable and have the size that they name; null is allowed for the name.
    let section = unsafe {
        CreateFileMappingW(
            INVALID_HANDLE_VALUE,
            &raw const inheritable,
            PAGE_READWRITE,
            high,
            low,
            null(),
        )
    };
    owned(section)
}
