//! A draft for a pipe, terminal or device: `commit` writes the bytes out.

use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::sys::file::{self, FileType};
use crate::sys::{descriptor, write};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Stream {
    to: File,
    pub(super) path: PathBuf,
    /// A regular file, of which no other has this description: it gets the bytes and no others.
    is_whole_file: bool,
}

impl Stream {
    pub(super) fn new(to: File, path: &Path) -> Result<Self> {
        let error = |operation, e| Error::os(operation, Some(path), e);
        let writable = descriptor::is_writable(to.as_fd()).map_err(|e| error("fcntl", e))?;
        if !writable {
            return Err(error("write", io::Error::from_raw_os_error(libc::EBADF)));
        }
        let path = path.to_path_buf();
        Ok(Stream {
            to,
            path,
            is_whole_file: false,
        })
    }

    /// The same for a description of its own.
    pub(super) fn opened(to: File, path: &Path) -> Result<Self> {
        let stat = file::stat(to.as_fd()).map_err(|e| Error::os("fstat", Some(path), e))?;
        let system = FileSystem::from_stat(to.as_fd(), &stat).ok();
        let is_whole_file = stat.kind == FileType::Regular && system != Some(FileSystem::Kernel);
        let stream = Stream::new(to, path)?;
        Ok(Stream {
            is_whole_file,
            ..stream
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.to
    }

    pub(super) fn write_out(&self, bytes: &[u8], sync: bool) -> Result<()> {
        // Flush stdout first, so that earlier output precedes ours.
        let _ = io::stdout().flush();
        let error = |operation, e| Error::os(operation, Some(&self.path), e);
        if self.is_whole_file {
            self.overwrite(bytes)?;
        } else {
            write::write_all(&self.to, bytes).map_err(|e| error("write", e))?;
        }
        if !sync {
            return Ok(());
        }
        match self.to.sync_all() {
            // Pipes, terminals and files of /proc cannot be synced.
            Err(e) if !is_unsyncable(&e) => Err(error("fsync", e)),
            _ => Ok(()),
        }
    }

    fn overwrite(&self, bytes: &[u8]) -> Result<()> {
        let error = |operation| move |e| Error::os(operation, Some(&self.path), e);
        write::write_all_at(&self.to, bytes, 0).map_err(error("pwrite"))?;
        let stat = file::stat(self.to.as_fd()).map_err(error("fstat"))?;
        let len = bytes.len() as u64;
        if stat.size > len {
            write::set_len(&self.to, len).map_err(error("ftruncate"))?;
        }
        Ok(())
    }
}

fn is_unsyncable(error: &io::Error) -> bool {
    // Not EROFS: so ends an fsync of ext4 after an error of the device.
    let unsyncable = [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS];
    error
        .raw_os_error()
        .is_some_and(|e| unsyncable.contains(&e))
}
