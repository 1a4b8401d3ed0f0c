//! A temporary file that is gone if the process is, and takes the place of another.

use super::system;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::path::{self, Path};
use tempfile::Builder;
use windows_sys::Win32::Foundation::{GENERIC_READ, GENERIC_WRITE};
use windows_sys::Win32::Storage::FileSystem::DELETE;

/// Marked for deletion until it is renamed. While it is marked, no process can open it.
pub(in super::super) struct Temporary {
    file: File,
}

impl Temporary {
    pub(in super::super) fn new(directory: &Path, mut builder: Builder) -> io::Result<Self> {
        let open = |path: &Path| {
            OpenOptions::new()
                .write(true)
                .access_mode(GENERIC_READ | GENERIC_WRITE | DELETE)
                .create_new(true)
                .open(path)
        };
        let made = builder.disable_cleanup(true).make_in(directory, open)?;
        let (file, path) = made.into_parts();
        if let Err(e) = system::delete_on_close(&file, true) {
            drop(file);
            fs::remove_file(&path)?;
            return Err(e);
        }
        Ok(Temporary { file })
    }

    pub(in super::super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Keeps nothing: there is only the attribute that forbids writing, and a file that has it is not replaced.
    pub(in super::super) fn set_permissions(&self, _of: Permissions) -> io::Result<()> {
        Ok(())
    }

    /// Renames it, over a file that exists if `replace`. If that fails, it is deleted.
    pub(in super::super) fn rename(self, to: &Path, replace: bool) -> io::Result<()> {
        let to = path::absolute(to)?;
        system::delete_on_close(&self.file, false)?;
        // Before Windows 10 1607, and on FAT, there is the other class only. Its error is the one that programs know.
        let renamed = system::rename_posix(&self.file, &to, replace)
            .or_else(|_| system::rename(&self.file, &to, replace));
        if renamed.is_err() {
            system::delete_on_close(&self.file, true)?;
        }
        renamed
    }
}
