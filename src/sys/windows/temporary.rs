//! A temporary file that is gone if the process is, and takes the place of another.

use super::{check, raw, size};
use std::ffi::c_void;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::mem::offset_of;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::fs::OpenOptionsExt;
use std::path::{self, Path};
use tempfile::Builder;
use windows_sys::Win32::Foundation::{GENERIC_READ, GENERIC_WRITE};
use windows_sys::Win32::Storage::FileSystem::{
    DELETE, FILE_DISPOSITION_INFO, FILE_INFO_BY_HANDLE_CLASS, FILE_RENAME_INFO,
    FileDispositionInfo, FileRenameInfo, FileRenameInfoEx, SetFileInformationByHandle,
};
use windows_sys::Win32::System::WindowsProgramming::{
    FILE_RENAME_FLAG_POSIX_SEMANTICS, FILE_RENAME_FLAG_REPLACE_IF_EXISTS,
};

/// Marked for deletion until it is renamed. While it is marked, no process can open it.
pub(crate) struct Temporary {
    file: File,
}

impl Temporary {
    pub(crate) fn new(directory: &Path, mut builder: Builder) -> io::Result<Self> {
        let open = |path: &Path| {
            OpenOptions::new()
                .write(true)
                .access_mode(GENERIC_READ | GENERIC_WRITE | DELETE)
                .create_new(true)
                .open(path)
        };
        let made = builder.disable_cleanup(true).make_in(directory, open)?;
        let (file, path) = made.into_parts();
        if let Err(e) = delete_on_close(&file, true) {
            drop(file);
            fs::remove_file(&path)?;
            return Err(e);
        }
        Ok(Temporary { file })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Renames it, over a file that exists if `replace`. If that fails, it is deleted.
    pub(crate) fn rename(self, to: &Path, replace: bool) -> io::Result<()> {
        let to = path::absolute(to)?;
        delete_on_close(&self.file, false)?;
        // Before Windows 10 1607, and on FAT, there is the other class only. Its error is the one that programs know.
        let renamed =
            rename_posix(&self.file, &to, replace).or_else(|_| rename(&self.file, &to, replace));
        if renamed.is_err() {
            delete_on_close(&self.file, true)?;
        }
        renamed
    }
}

/// Keeps nothing: there is only the attribute that forbids writing, and a file that has it is not replaced.
pub(crate) fn keep_rights(_file: &File, _of: &Metadata) -> io::Result<()> {
    Ok(())
}

/// `FileDispositionInfo`: whether the file is deleted when its last handle is closed. The handle has DELETE access.
fn delete_on_close(file: &File, delete: bool) -> io::Result<()> {
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
fn rename_posix(file: &File, to: &Path, replace: bool) -> io::Result<()> {
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
fn rename(file: &File, to: &Path, replace: bool) -> io::Result<()> {
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
