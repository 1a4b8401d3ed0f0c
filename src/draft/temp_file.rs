//! The file that holds a draft before it is published: without a name, or hidden under one that cannot be guessed.

use super::target::TargetName;
use crate::error::{Error, Result};
use crate::process::Process;
use crate::sys::{credentials, dir, sync};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Part of every name that may appear beside a target.
const SUFFIX: &str = ".stillmap-draft.";

/// The most bytes of the target's name in a temporary name. Some file systems (eCryptfs) limit names to 143 bytes.
const NAME_PART_MAX: usize = 100;

/// Mode of a file that other users must not open yet.
const PRIVATE: u32 = 0o600;

/// The same for a file with a hidden name. The sticky bit has no effect on a file; with it, a mode that the caller sets
/// differs from this one, even if it is 0600.
const HIDDEN: u32 = 0o1600;

#[derive(Debug)]
pub(super) struct TempFile {
    file: File,
    /// Where `O_TMPFILE` is not supported.
    hidden: Option<Hidden>,
}

/// A name that is removed on drop.
#[derive(Debug)]
struct Hidden {
    dir: OwnedFd,
    name: CString,
    process: Process,
}

impl TempFile {
    /// An empty file that only this process can open. `mode`: that of an unnamed file, less the umask; a hidden file is
    /// always private to the user.
    pub(super) fn create(target: &TargetName, mode: Option<u32>) -> Result<Self> {
        match dir::open_tmpfile(target.dir(), mode.unwrap_or(PRIVATE)) {
            Ok(file) => Ok(TempFile { file, hidden: None }),
            Err(e) if dir::is_tmpfile_unsupported(&e) => TempFile::create_hidden(target),
            Err(e) => Err(target.name.create_error(&target.path, e)),
        }
    }

    fn create_hidden(target: &TargetName) -> Result<Self> {
        let error = |e| target.name.create_error(&target.path, e);
        if dir::attributes(target.dir()) & libc::STATX_ATTR_APPEND as u64 != 0 {
            // A name in an append-only directory can neither be changed nor removed.
            return Err(error(io::Error::from_raw_os_error(libc::EPERM)));
        }
        let dir = target.dir().try_clone_to_owned().map_err(error)?;
        let name = temp_name(&target.name.name).map_err(error)?;
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR | libc::O_NOFOLLOW;
        let file = dir::open_at(target.dir(), &name, flags, HIDDEN).map_err(error)?;
        Ok(TempFile {
            file: File::from(file),
            hidden: Some(Hidden {
                dir,
                name,
                process: Process::current(),
            }),
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The hidden name, if it has one.
    pub(super) fn hidden_name(&self) -> Option<&CStr> {
        self.hidden.as_ref().map(|hidden| hidden.name.as_c_str())
    }

    /// The hidden name now is the target's.
    pub(super) fn forget_hidden_name(&mut self) {
        if let Some(mut hidden) = self.hidden.take() {
            hidden.name = CString::default();
        }
    }

    /// A second description of the file, opened for reading only; `None` without /proc, or if the mode forbids it.
    pub(super) fn reopen_read_only(&self) -> Option<File> {
        self.reopen(libc::O_RDONLY).ok()
    }

    /// Replaces the present description, which is closed.
    pub(super) fn set_file(&mut self, file: File) {
        self.file = file;
    }

    /// Opens the file for writing again.
    pub(super) fn regain_writer(&mut self) -> io::Result<()> {
        self.file = self.reopen(libc::O_RDWR)?;
        Ok(())
    }

    fn reopen(&self, flags: i32) -> io::Result<File> {
        let path = dir::proc_path(self.file.as_fd());
        dir::open_at(dir::working_directory(), &path, flags, 0).map(File::from)
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A forked child must not remove its parent's file.
        if !self.name.is_empty() && self.process.is_current() {
            let _ = dir::unlink(self.dir.as_fd(), &self.name);
        }
    }
}

/// `.NAME.stillmap-draft.RANDOM`. As it cannot be guessed, other users can neither take nor lock it.
pub(super) fn temp_name(target: &CStr) -> io::Result<CString> {
    let random = credentials::random()?;
    let mut text = vec![b'.'];
    text.extend_from_slice(front(target.to_bytes(), NAME_PART_MAX));
    text.extend_from_slice(format!("{SUFFIX}{random:016x}").as_bytes());
    Ok(CString::new(text).unwrap_or_default())
}

/// At most `max` bytes of a name, not cut inside a character: some file systems take whole characters only.
fn front(name: &[u8], max: usize) -> &[u8] {
    let is_inside = |at: usize| name.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut end = name.len().min(max);
    while end > 0 && is_inside(end) {
        end -= 1;
    }
    &name[..end]
}

/// `fsync` of a directory that may be searched but not read fails with `EBADF`; some network file systems have none.
pub(super) fn sync_directory(file: &File, target: &TargetName) -> Result<()> {
    let synced = match sync::fsync(target.dir()) {
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => sync::sync_file_system(file.as_fd()),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    };
    synced.map_err(|e| Error::os("fsync", Some(&target.name.dir_path), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_is_short_and_not_cut_inside_a_character() {
        for name in ["n".repeat(255), "議".repeat(79), "é".repeat(127)] {
            let target = CString::new(name.as_str()).unwrap();
            let [temp, again] = [(); 2].map(|()| temp_name(&target).unwrap());
            let text = temp.to_str().unwrap();
            assert!(text.len() <= 143 && text.starts_with('.'));
            assert_ne!(temp, again);
        }
    }
}
