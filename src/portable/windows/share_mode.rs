//! Share modes: a file that no process can write to, or open at all, as long as a handle is open.

use crate::error::{Error, Result};
use crate::reason::Reason;
use crate::sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
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

/// The attributes that a file with all of its bytes on the volume may have. Files that are recalled from elsewhere, offline,
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

/// The attributes that a file with space on the volume for each of its bytes may have: on a full disk, stores to sparse,
/// compressed and deduplicated files would be lost.
const ALLOCATED_ATTRIBUTES: u32 = FILE_ATTRIBUTE_HIDDEN
    | FILE_ATTRIBUTE_SYSTEM
    | FILE_ATTRIBUTE_ARCHIVE
    | FILE_ATTRIBUTE_NORMAL
    | FILE_ATTRIBUTE_TEMPORARY
    | FILE_ATTRIBUTE_NOT_CONTENT_INDEXED;

/// Opens the file of a handle once more, to share reading only (CreateFileW, "dwShareMode"): as long as the new handle is
/// open, no process can open the file for writing, truncate, delete or rename it. That is refused if the file is open for
/// writing, or a writable view of it is left; and everywhere but on the volumes that [`is_trusted`] knows.
pub(in super::super) fn lock(file: &File) -> std::result::Result<File, Reason> {
    let opened = sys::reopen(file, GENERIC_READ, FILE_SHARE_READ);
    let file = opened.map_err(|e| {
        if is(&e, ERROR_SHARING_VIOLATION) {
            Reason::OpenForWriting
        } else {
            Reason::NotReopened
        }
    })?;
    // Checked on the handle that locks the file: the path may name another file by now.
    if !is_plain(&file) || is_trusted(&file).is_none() {
        return Err(Reason::FileSystem);
    }
    if is_in_transaction(&file) {
        return Err(Reason::OpenForWriting);
    }
    Ok(file)
}

/// Opens a file for reading and writing, to share nothing: as long as the handle is open, every other open fails. Fails
/// with `Busy` if any handle of the file is open, or a writable view of it is left.
pub(in super::super) fn open_alone(path: &Path) -> Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .share_mode(0)
        .open(path);
    let file = match opened {
        Err(_) if path.is_dir() => return Err(Error::is_directory(Some(path))),
        Err(e) if is(&e, ERROR_SHARING_VIOLATION) => {
            return Err(Error::busy(Some(path), "it is open or mapped elsewhere"));
        }
        opened => opened.map_err(|e| Error::os("open", Some(path), e))?,
    };
    let stat = file
        .metadata()
        .map_err(|e| Error::os("fstat", Some(path), e))?;
    // Also for pipes and consoles, which have no file system.
    if is_trusted(&file) != Some(FileSystem::Ntfs) {
        let why = "only files on local NTFS volumes can be protected, with space for every store";
        return Err(Error::unprotectable(Some(path), why));
    }
    if stat.file_attributes() & !ALLOCATED_ATTRIBUTES != 0 {
        let why = "it is sparse, compressed or special, so a full disk would lose stores";
        return Err(Error::unprotectable(Some(path), why));
    }
    if is_in_transaction(&file) {
        return Err(Error::busy(Some(path), "it is in a transaction"));
    }
    Ok(file)
}

fn is(error: &io::Error, code: u32) -> bool {
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
/// - Wine enforces share modes among its own processes only. `stillmap_wine` is for the tests, where all processes are Wine's.
fn is_trusted(file: &File) -> Option<FileSystem> {
    let is_test_under_wine = cfg!(stillmap_wine);
    let (name, flags) = sys::file_system(file).ok()?;
    let file_system = match name.as_str() {
        "NTFS" => FileSystem::Ntfs,
        "ReFS" => FileSystem::Refs,
        _ => return None,
    };
    let (device, characteristics) = sys::device(file).ok()?;
    // Wine reports the second type for every file.
    let is_disk = device == FILE_DEVICE_DISK
        || (is_test_under_wine && device == FILE_DEVICE_DISK_FILE_SYSTEM);
    let is_local = is_disk
        && characteristics & (FILE_REMOTE_DEVICE | FILE_REMOVABLE_MEDIA) == 0
        && !sys::is_remote(file);
    let is_windows = flags & FILE_SUPPORTS_USN_JOURNAL != 0 && !sys::is_wine();
    (is_local && (is_windows || is_test_under_wine)).then_some(file_system)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileSystem {
    Ntfs,
    /// Writes every changed page to a new place, so it is not used for an `Exclusive`.
    Refs,
}

/// True if a transaction (TxF) may have changed the file: it would be changed when that is committed or rolled back, though
/// no handle is open.
fn is_in_transaction(file: &File) -> bool {
    match sys::transaction_state(file) {
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
