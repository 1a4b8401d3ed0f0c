//! System calls of Windows as functions on plain values: no state, no policy.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::ops::Range;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr::{self, NonNull, null, null_mut};
use windows_sys::Wdk::Storage::FileSystem::{
    FileFsDeviceInformation, NtQueryVolumeInformationFile,
};
use windows_sys::Wdk::System::SystemServices::FILE_FS_DEVICE_INFORMATION;
use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE, RtlNtStatusToDosError};
use windows_sys::Win32::Security::SECURITY_ATTRIBUTES;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_DISPOSITION_INFO, FILE_INFO_BY_HANDLE_CLASS, FILE_REMOTE_PROTOCOL_INFO, FILE_RENAME_INFO,
    FILE_TYPE_DISK, FileDispositionInfo, FileRemoteProtocolInfo, FileRenameInfo, FileRenameInfoEx,
    GetFileInformationByHandleEx, GetFileType, GetVolumeInformationByHandleW, ReOpenFile,
    SetFileInformationByHandle,
};
use windows_sys::Win32::System::IO::{DeviceIoControl, IO_STATUS_BLOCK};
use windows_sys::Win32::System::Ioctl::{FSCTL_TXFS_GET_METADATA_INFO, TXFS_GET_METADATA_INFO_OUT};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Memory::{
    CreateFileMappingW, FILE_MAP_COPY, FILE_MAP_READ, FILE_MAP_WRITE, FlushViewOfFile, MEM_COMMIT,
    MEM_MAPPED, MEM_RELEASE, MEM_RESERVE, MEMORY_BASIC_INFORMATION, MEMORY_MAPPED_VIEW_ADDRESS,
    MapViewOfFile, PAGE_READONLY, PAGE_READWRITE, PAGE_WRITECOPY, PrefetchVirtualMemory,
    UnmapViewOfFile, VirtualAlloc, VirtualFree, VirtualLock, VirtualQuery, VirtualUnlock,
    WIN32_MEMORY_RANGE_ENTRY,
};
use windows_sys::Win32::System::ProcessStatus::{
    K32QueryWorkingSetEx, PSAPI_WORKING_SET_EX_INFORMATION,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;
use windows_sys::Win32::System::WindowsProgramming::{
    FILE_RENAME_FLAG_POSIX_SEMANTICS, FILE_RENAME_FLAG_REPLACE_IF_EXISTS,
};
use windows_sys::w;

/// The offset of a view is a multiple of this (`SYSTEM_INFO::dwAllocationGranularity`, the same on every processor).
pub(super) const GRANULARITY: u64 = 64 << 10;

/// What may be done with the memory of a view.
#[derive(Clone, Copy)]
pub(super) enum Protection {
    Read,
    /// Stores go to copies of the pages.
    CopyOnWrite,
    /// Stores go to the file.
    Write,
}

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

/// GetFileType: true for a file of a file system, false for pipes, consoles and other devices.
pub(super) fn is_disk_file(file: &File) -> bool {
    // SAFETY: the handle is open as long as `file` is borrowed.
    let kind = unsafe { GetFileType(raw(file)) };
    kind == FILE_TYPE_DISK
}

/// ReOpenFile: the file of a handle once more, by another handle with another share mode. It is not inheritable.
pub(super) fn reopen(file: &File, access: u32, share: u32) -> io::Result<File> {
    // SAFETY: the handle is open as long as `file` is borrowed.
    let handle = unsafe { ReOpenFile(raw(file), access, share, 0) };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made this handle, and nothing else owns it.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// GetVolumeInformationByHandleW: the name of the file system, and its flags.
pub(super) fn file_system(file: &File) -> io::Result<(String, u32)> {
    // MAX_PATH + 1 is the most that the call writes.
    let mut name = [0_u16; 261];
    let mut flags = 0;
    // SAFETY: - the handle is open as long as `file` is borrowed.
    // - `name` has as many elements as its length says, and `flags` is writable; null is allowed for the others.
    let done = unsafe {
        GetVolumeInformationByHandleW(
            raw(file),
            null_mut(),
            0,
            null_mut(),
            null_mut(),
            &raw mut flags,
            name.as_mut_ptr(),
            name.len() as u32,
        )
    };
    check(done)?;
    let len = name.iter().position(|&c| c == 0).unwrap_or(name.len());
    Ok((String::from_utf16_lossy(&name[..len]), flags))
}

/// NtQueryVolumeInformationFile, `FileFsDeviceInformation`: the type of the device below a file, and its characteristics.
pub(super) fn device(file: &File) -> io::Result<(u32, u32)> {
    let mut status = IO_STATUS_BLOCK::default();
    let mut info = FILE_FS_DEVICE_INFORMATION::default();
    // SAFETY: - the handle is open as long as `file` is borrowed, and synchronous: the call is over when it returns.
    // - `status` and `info` are writable, and `info` has the size that is passed.
    let done = unsafe {
        NtQueryVolumeInformationFile(
            raw(file),
            &raw mut status,
            (&raw mut info).cast::<c_void>(),
            size::<FILE_FS_DEVICE_INFORMATION>(),
            FileFsDeviceInformation,
        )
    };
    if done < 0 {
        // SAFETY: it converts a number.
        let code = unsafe { RtlNtStatusToDosError(done) };
        return Err(io::Error::from_raw_os_error(code as i32));
    }
    Ok((info.DeviceType, info.Characteristics))
}

/// True if a file is on another machine: `FileRemoteProtocolInfo` is known of it.
pub(super) fn is_remote(file: &File) -> bool {
    let mut info = FILE_REMOTE_PROTOCOL_INFO::default();
    // SAFETY: - the handle is open as long as `file` is borrowed.
    // - `info` is writable and has the size that is passed.
    let done = unsafe {
        GetFileInformationByHandleEx(
            raw(file),
            FileRemoteProtocolInfo,
            (&raw mut info).cast::<c_void>(),
            size::<FILE_REMOTE_PROTOCOL_INFO>(),
        )
    };
    done != 0
}

/// `FSCTL_TXFS_GET_METADATA_INFO`: the state of the transaction that has changed a file and was not committed yet.
pub(super) fn transaction_state(file: &File) -> io::Result<u32> {
    let mut info = TXFS_GET_METADATA_INFO_OUT::default();
    let mut written = 0;
    // SAFETY: - the handle is open as long as `file` is borrowed, and synchronous: the call is over when it returns.
    // - `info` and `written` are writable, and `info` has the size that is passed.
    let done = unsafe {
        DeviceIoControl(
            raw(file),
            FSCTL_TXFS_GET_METADATA_INFO,
            null(),
            0,
            (&raw mut info).cast::<c_void>(),
            size::<TXFS_GET_METADATA_INFO_OUT>(),
            &raw mut written,
            null_mut(),
        )
    };
    check(done)?;
    Ok(info.TransactionState)
}

/// True if ntdll.dll is Wine's.
pub(super) fn is_wine() -> bool {
    // SAFETY: the name ends with a zero.
    let module = unsafe { GetModuleHandleW(w!("ntdll.dll")) };
    // SAFETY: the module is never unloaded, and the name ends with a zero. The function is not called.
    unsafe { GetProcAddress(module, c"wine_get_version".as_ptr().cast()) }.is_some()
}

/// CreateFileMappingW: a section of a file.
pub(super) fn section_of_file(file: &File, protection: Protection) -> io::Result<OwnedHandle> {
    let page = match protection {
        Protection::Read => PAGE_READONLY,
        Protection::CopyOnWrite => PAGE_WRITECOPY,
        Protection::Write => PAGE_READWRITE,
    };
    // SAFETY: the handle is open as long as `file` is borrowed; null is allowed for the others.
    let section = unsafe { CreateFileMappingW(raw(file), null(), page, 0, 0, null()) };
    owned(section)
}

/// CreateFileMappingW: a section without a file, zeroed, and an inheritable handle. `len` is not 0.
pub(super) fn create_section(len: u64) -> io::Result<OwnedHandle> {
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

fn owned(section: HANDLE) -> io::Result<OwnedHandle> {
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

/// VirtualQuery: how many bytes from `start` on are mapped to read and write, and have memory (`MEM_COMMIT`).
pub(super) fn usable_bytes(start: NonNull<u8>) -> io::Result<usize> {
    let mut info = MEMORY_BASIC_INFORMATION::default();
    // SAFETY: it looks at no byte of the memory; `info` is writable and has the size that is passed.
    let written = unsafe {
        VirtualQuery(
            start.as_ptr().cast(),
            &raw mut info,
            size_of::<MEMORY_BASIC_INFORMATION>(),
        )
    };
    check(i32::from(written != 0))?;
    let is_usable =
        info.State == MEM_COMMIT && info.Type == MEM_MAPPED && info.Protect == PAGE_READWRITE;
    Ok(if is_usable { info.RegionSize } else { 0 })
}

/// VirtualAlloc: zeroed memory at a multiple of [`GRANULARITY`]. `len` is not 0.
pub(super) fn allocate(len: usize) -> Option<NonNull<u8>> {
    // SAFETY: at an address that the call chooses, so no memory of ours is replaced.
    let start = unsafe { VirtualAlloc(null(), len, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE) };
    NonNull::new(start.cast())
}

/// VirtualFree.
///
/// # Safety
/// `start` was returned by [`allocate`] and not released since, and no reference to the memory is left.
pub(super) unsafe fn release(start: NonNull<u8>) {
    // SAFETY: the caller's promises.
    let done = unsafe { VirtualFree(start.as_ptr().cast(), 0, MEM_RELEASE) };
    debug_assert_ne!(done, 0);
}

/// PrefetchVirtualMemory.
pub(super) fn prefetch(addresses: &Range<usize>) -> io::Result<()> {
    let range = WIN32_MEMORY_RANGE_ENTRY {
        VirtualAddress: ptr::without_provenance_mut(addresses.start),
        NumberOfBytes: addresses.len(),
    };
    // SAFETY: the handle of this process is always open; `range` is readable, and one; no byte is changed.
    let done = unsafe { PrefetchVirtualMemory(GetCurrentProcess(), 1, &raw const range, 0) };
    check(done)
}

/// VirtualLock: whole pages.
pub(super) fn lock(pages: &Range<usize>) -> io::Result<()> {
    // SAFETY: it changes no byte; addresses without memory are an error.
    let done = unsafe { VirtualLock(ptr::without_provenance(pages.start), pages.len()) };
    check(done)
}

/// VirtualUnlock. Pages that are not locked are not unlocked.
pub(super) fn unlock(pages: &Range<usize>) {
    // SAFETY: it changes no byte.
    unsafe {
        VirtualUnlock(ptr::without_provenance(pages.start), pages.len());
    }
}

/// QueryWorkingSetEx: sets the lowest bit of a byte for each page of `page` bytes from `start` on that is valid.
pub(super) fn are_valid(start: usize, page: usize, answers: &mut [u8]) -> io::Result<()> {
    let mut pages: Vec<PSAPI_WORKING_SET_EX_INFORMATION> = (0..answers.len())
        .map(|number| PSAPI_WORKING_SET_EX_INFORMATION {
            VirtualAddress: ptr::without_provenance_mut(start + number * page),
            ..PSAPI_WORKING_SET_EX_INFORMATION::default()
        })
        .collect();
    let bytes = u32::try_from(size_of_val(&pages[..])).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the handle of this process is always open; `pages` is writable and has the size that is passed.
    let done =
        unsafe { K32QueryWorkingSetEx(GetCurrentProcess(), pages.as_mut_ptr().cast(), bytes) };
    check(done)?;
    for (answer, page) in answers.iter_mut().zip(&pages) {
        // SAFETY: every bit pattern of the union is a number.
        let flags = unsafe { page.VirtualAttributes.Flags };
        *answer = (flags & 1) as u8;
    }
    Ok(())
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

/// FlushViewOfFile: writes the changed pages to the file system.
pub(super) fn flush(view: &[u8]) -> io::Result<()> {
    // SAFETY: it changes no byte, and an address that is not in a view is an error.
    let done = unsafe { FlushViewOfFile(view.as_ptr().cast(), view.len()) };
    check(done)
}

/// `FileDispositionInfo`: whether the file is deleted when its last handle is closed. The handle has DELETE access.
pub(super) fn delete_on_close(file: &File, delete: bool) -> io::Result<()> {
    let info = FILE_DISPOSITION_INFO { DeleteFile: delete };
    // SAFETY: - the handle is open as long as `file` is borrowed.
    // - `info` is readable and has the size that is passed.
    let done = unsafe {
        SetFileInformationByHandle(
            raw(file),
            FileDispositionInfo,
            (&raw const info).cast::<c_void>(),
            size::<FILE_DISPOSITION_INFO>(),
        )
    };
    check(done)
}

/// `FileRenameInfoEx` with POSIX semantics: a file that it replaces may be open, if its handles share deletion.
pub(super) fn rename_posix(file: &File, to: &Path, replace: bool) -> io::Result<()> {
    let replace = if replace {
        FILE_RENAME_FLAG_REPLACE_IF_EXISTS
    } else {
        0
    };
    rename_by(
        file,
        to,
        FileRenameInfoEx,
        FILE_RENAME_FLAG_POSIX_SEMANTICS | replace,
    )
}

/// `FileRenameInfo`: a file that it replaces may not be open. The handle has DELETE access.
pub(super) fn rename(file: &File, to: &Path, replace: bool) -> io::Result<()> {
    rename_by(file, to, FileRenameInfo, u32::from(replace))
}

/// `flags` is the union at the start of FILE_RENAME_INFO: a BOOLEAN or flags, by the class.
fn rename_by(
    file: &File,
    to: &Path,
    class: FILE_INFO_BY_HANDLE_CLASS,
    flags: u32,
) -> io::Result<()> {
    let name: Vec<u16> = to.as_os_str().encode_wide().collect();
    let name_bytes = name.len() * size_of::<u16>();
    let name_start = offset_of!(FILE_RENAME_INFO, FileName);
    // A zero ends the name, though its length is passed, too.
    let len = name_start + name_bytes + size_of::<u16>();
    let mut info = vec![FILE_RENAME_INFO::default(); len.div_ceil(size_of::<FILE_RENAME_INFO>())];
    info[0].Anonymous.Flags = flags;
    info[0].FileNameLength = u32::try_from(name_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    let name_field = info.as_mut_ptr().wrapping_byte_add(name_start);
    // SAFETY: `info` has `len` bytes, which leave room for the name from `name_start` on; that is aligned for u16.
    unsafe {
        name_field
            .cast::<u16>()
            .copy_from_nonoverlapping(name.as_ptr(), name.len());
    }
    // SAFETY: - the handle is open as long as `file` is borrowed.
    // - `info` is a FILE_RENAME_INFO with its name, and has at least `len` bytes.
    let done = unsafe {
        SetFileInformationByHandle(raw(file), class, info.as_ptr().cast::<c_void>(), len as u32)
    };
    check(done)
}
