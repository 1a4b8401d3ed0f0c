//! Files that no process can write to as long as a handle is open that shares reading only, and views of them.

use super::super::bytes::Access;
use super::system::{self, GRANULARITY, Protection};
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::reason::Reason;
use std::fs::File;
use std::io;
use std::os::windows::fs::MetadataExt;
use std::os::windows::io::AsHandle;
use std::ptr::NonNull;
use windows_sys::Wdk::System::SystemServices::{FILE_REMOTE_DEVICE, FILE_REMOVABLE_MEDIA};
use windows_sys::Win32::Foundation::{
    ERROR_INVALID_FUNCTION, ERROR_NO_TXF_METADATA, ERROR_NOT_SUPPORTED, ERROR_RM_NOT_ACTIVE,
    ERROR_SHARING_VIOLATION, GENERIC_READ,
};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_ARCHIVE, FILE_ATTRIBUTE_COMPRESSED, FILE_ATTRIBUTE_HIDDEN,
    FILE_ATTRIBUTE_INTEGRITY_STREAM, FILE_ATTRIBUTE_NO_SCRUB_DATA, FILE_ATTRIBUTE_NORMAL,
    FILE_ATTRIBUTE_NOT_CONTENT_INDEXED, FILE_ATTRIBUTE_READONLY, FILE_ATTRIBUTE_SYSTEM,
    FILE_ATTRIBUTE_TEMPORARY, FILE_DEVICE_DISK, FILE_SHARE_READ,
};
use windows_sys::Win32::System::Ioctl::{
    FILE_DEVICE_DISK_FILE_SYSTEM, TXFS_TRANSACTION_STATE_NONE,
};
use windows_sys::Win32::System::SystemServices::FILE_SUPPORTS_USN_JOURNAL;

/// What a file may be and still have all of its bytes on the volume. Files that are recalled from elsewhere, offline,
/// deduplicated, encrypted or sparse have other attributes.
const PLAIN_ATTRIBUTES: u32 = FILE_ATTRIBUTE_READONLY
    | FILE_ATTRIBUTE_HIDDEN
    | FILE_ATTRIBUTE_SYSTEM
    | FILE_ATTRIBUTE_ARCHIVE
    | FILE_ATTRIBUTE_NORMAL
    | FILE_ATTRIBUTE_TEMPORARY
    | FILE_ATTRIBUTE_COMPRESSED
    | FILE_ATTRIBUTE_NOT_CONTENT_INDEXED
    | FILE_ATTRIBUTE_INTEGRITY_STREAM
    | FILE_ATTRIBUTE_NO_SCRUB_DATA;

/// True for pipes, which show as their size what can be read from them now, and for consoles.
pub(in super::super) fn is_stream(file: &File) -> bool {
    !system::is_disk_file(file)
}

/// A file that no process can open for writing, truncate, delete or rename as long as this lives: its handle shares
/// reading only (CreateFileW, "dwShareMode"). The handle is given to no other code.
pub(in super::super) struct Locked {
    file: File,
}

impl Locked {
    /// Opens the file of a handle once more. It is refused if the file is open for writing, or a writable view of it is
    /// left; and everywhere but on the volumes that [`is_trusted`] knows.
    pub(in super::super) fn lock(file: &File) -> std::result::Result<Self, Reason> {
        let opened = system::reopen(file, GENERIC_READ, FILE_SHARE_READ);
        let file = opened.map_err(|e| {
            if is(&e, ERROR_SHARING_VIOLATION) {
                Reason::OpenForWriting
            } else {
                Reason::NotReopened
            }
        })?;
        // Checked by the handle that locks the file: the path may name another one by now.
        if !is_plain(&file) || is_trusted(&file).is_none() {
            return Err(Reason::FileSystem);
        }
        if is_in_transaction(&file) {
            return Err(Reason::OpenForWriting);
        }
        Ok(Locked { file })
    }

    pub(in super::super) fn file(&self) -> &File {
        &self.file
    }

    /// A view of `len` bytes, not 0, inside the file.
    pub(in super::super) fn view(
        self,
        offset: u64,
        len: usize,
        access: Access,
    ) -> io::Result<View> {
        let protection = match access {
            Access::Read => Protection::Read,
            Access::Copy => Protection::CopyOnWrite,
        };
        let view = Mapping::new(&self.file, offset, len, protection)?;
        Ok(View {
            mapping: view,
            _locked: self,
        })
    }
}

pub(super) fn is(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == i32::try_from(code).ok()
}

fn is_plain(file: &File) -> bool {
    let attributes = file.metadata().map(|stat| stat.file_attributes());
    attributes.is_ok_and(|attributes| attributes & !PLAIN_ATTRIBUTES == 0)
}

/// The file system of a file, if its driver is known to return the same bytes at every fault and to check the share modes
/// of every open: NTFS or ReFS, on a disk of this machine.
///
/// - File systems in user space may call themselves NTFS. They have no USN journal.
/// - On a network file system the server may return other bytes at the next fault; removable media can be changed in
///   another machine.
/// - Wine keeps share modes among its own processes only. `stillmap_wine` is for the tests, which have no others.
pub(super) fn is_trusted(file: &File) -> Option<FileSystem> {
    let is_test_under_wine = cfg!(stillmap_wine);
    let (name, flags) = system::file_system(file).ok()?;
    let file_system = match name.as_str() {
        "NTFS" => FileSystem::Ntfs,
        "ReFS" => FileSystem::Refs,
        _ => return None,
    };
    let (device, characteristics) = system::device(file).ok()?;
    // The second is what Wine has below every file.
    let is_disk = device == FILE_DEVICE_DISK
        || (is_test_under_wine && device == FILE_DEVICE_DISK_FILE_SYSTEM);
    let is_local = is_disk
        && characteristics & (FILE_REMOTE_DEVICE | FILE_REMOVABLE_MEDIA) == 0
        && !system::is_remote(file);
    let is_windows = flags & FILE_SUPPORTS_USN_JOURNAL != 0 && !system::is_wine();
    (is_local && (is_windows || is_test_under_wine)).then_some(file_system)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    Ntfs,
    /// It writes every changed page to a new place.
    Refs,
}

/// True if a transaction (TxF) may have changed the file: it would be changed when that is committed or rolled back, though
/// no handle is open.
pub(super) fn is_in_transaction(file: &File) -> bool {
    match system::transaction_state(file) {
        Ok(state) => state != TXFS_TRANSACTION_STATE_NONE,
        // Without transactions, on this file system or in this file.
        Err(e) => ![
            ERROR_NO_TXF_METADATA,
            ERROR_RM_NOT_ACTIVE,
            ERROR_INVALID_FUNCTION,
            ERROR_NOT_SUPPORTED,
        ]
        .iter()
        .any(|&code| is(&e, code)),
    }
}

/// Bytes of a file that is locked as long as they are mapped.
pub(in super::super) struct View {
    // Dropped first: without the handle nothing keeps the bytes.
    mapping: Mapping,
    _locked: Locked,
}

// SAFETY: the bytes of `mapping`. They do not change, as `_locked` keeps the file; stores into a view for
// `Access::Copy` go to copies of its pages.
#[allow(unsafe_code)]
unsafe impl ByteSlice for View {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        self.mapping.start_and_len()
    }
}

/// One view, unmapped when it is dropped.
pub(super) struct Mapping {
    /// As the call returned it.
    base: NonNull<u8>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the value owns its view; `&Mapping` changes no byte.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes, not 0, that are inside the file.
    pub(super) fn new(
        file: &File,
        offset: u64,
        len: usize,
        protection: Protection,
    ) -> io::Result<Self> {
        let skipped = (offset % GRANULARITY) as usize;
        let mapped = skipped.checked_add(len).ok_or(io::ErrorKind::OutOfMemory)?;
        let section = system::section_of_file(file, protection)?;
        let offset = offset - skipped as u64;
        let base = system::map_section(section.as_handle(), offset, mapped, protection)?;
        // SAFETY: `mapped` bytes are there, and `skipped` is less.
        #[allow(unsafe_code)]
        let start = unsafe { base.add(skipped) };
        Ok(Mapping { base, start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, unmapped here only, and no borrow is left.
        #[allow(unsafe_code)]
        unsafe {
            system::unmap(self.base);
        }
    }
}

// SAFETY: `len` bytes from `start` on are mapped; the types above keep others from changing them.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Mapping {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        (self.start, self.len)
    }
}

impl_byte_slice!(Mapping, debug:);
impl_byte_slice_mut!(Mapping);
