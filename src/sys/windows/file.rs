//! Files, and what is known of their volumes.

use super::{check, raw, size};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::fs::FileExt;
use std::os::windows::io::FromRawHandle;
use std::ptr::{null, null_mut};
use windows_sys::Wdk::Storage::FileSystem::{
    FileFsDeviceInformation, NtQueryVolumeInformationFile,
};
use windows_sys::Wdk::System::SystemServices::FILE_FS_DEVICE_INFORMATION;
use windows_sys::Win32::Foundation::{GENERIC_READ, INVALID_HANDLE_VALUE, RtlNtStatusToDosError};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_REMOTE_PROTOCOL_INFO, FILE_SHARE_DELETE, FILE_SHARE_READ, FILE_SHARE_WRITE,
    FILE_TYPE_DISK, FileRemoteProtocolInfo, GetFileInformationByHandleEx, GetFileType,
    GetVolumeInformationByHandleW, ReOpenFile,
};
use windows_sys::Win32::System::IO::{DeviceIoControl, IO_STATUS_BLOCK};
use windows_sys::Win32::System::Ioctl::{FSCTL_TXFS_GET_METADATA_INFO, TXFS_GET_METADATA_INFO_OUT};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::w;

/// GetFileType: true for pipes, which show as their size what can be read from them now, and for consoles and other
/// devices; false for a file of a file system.
pub(crate) fn is_stream(file: &File) -> bool {
    // SAFETY: the handle is open as long as `file` is borrowed.
    let kind = unsafe { GetFileType(raw(file)) };
    kind != FILE_TYPE_DISK
}

/// ReadFile at an offset: in one step, whatever other threads read. The offset of the file is moved.
pub(crate) fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(into, offset)
}

/// ReOpenFile: the file of a handle once more, by another handle with another share mode. It is not inheritable.
pub(crate) fn reopen(file: &File, access: u32, share: u32) -> io::Result<File> {
    // SAFETY: the handle is open as long as `file` is borrowed.
    let handle = unsafe { ReOpenFile(raw(file), access, share, 0) };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call made this handle, and nothing else owns it.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// The same file, by a handle with an offset of its own: a duplicate shares it. That is made only where the first handle does
/// not share reading.
pub(crate) fn with_own_offset(file: &File) -> io::Result<File> {
    let share = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;
    reopen(file, GENERIC_READ, share).or_else(|_| file.try_clone())
}

/// GetVolumeInformationByHandleW: the name of the file system, and its flags.
pub(crate) fn file_system(file: &File) -> io::Result<(String, u32)> {
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
pub(crate) fn device(file: &File) -> io::Result<(u32, u32)> {
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
pub(crate) fn is_remote(file: &File) -> bool {
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
pub(crate) fn transaction_state(file: &File) -> io::Result<u32> {
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
pub(crate) fn is_wine() -> bool {
    // SAFETY: the name ends with a zero.
    let module = unsafe { GetModuleHandleW(w!("ntdll.dll")) };
    // SAFETY: the module is never unloaded, and the name ends with a zero. The function is not called.
    unsafe { GetProcAddress(module, c"wine_get_version".as_ptr().cast()) }.is_some()
}
