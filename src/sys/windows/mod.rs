//! The system calls of Windows.

mod file;
mod memory;
mod section;
mod temporary;
mod view;

pub(crate) use super::unsupported::*;
pub(crate) use file::{
    device, file_system, is_remote, is_stream, is_wine, read_at, reopen, transaction_state,
    with_own_offset,
};
pub(crate) use memory::{
    allocate, has_own_pages, lock, page_size, prefetch, release, residency, unlock,
};
pub(crate) use section::Section;
pub(crate) use temporary::{Temporary, keep_rights};
pub(crate) use view::View;

use std::fs::File;
use std::io;
use std::os::windows::io::AsRawHandle;
use windows_sys::Win32::Foundation::HANDLE;

/// The error of a call that returned 0.
fn check(returned: i32) -> io::Result<()> {
    if returned == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn raw(file: &File) -> HANDLE {
    file.as_raw_handle()
}

/// The bytes in a `T`, as the calls count them.
fn size<T>() -> u32 {
    size_of::<T>() as u32
}
