//! A draft for a pipe, terminal or device: `commit` writes the bytes out.

use crate::error::{Error, Result};
use crate::sys::{descriptor, write};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Stream {
    to: File,
    pub(super) path: PathBuf,
}

impl Stream {
    pub(super) fn new(to: File, path: &Path) -> Result<Self> {
        let error = |operation, e| Error::os(operation, Some(path), e);
        let writable = descriptor::is_writable(to.as_fd()).map_err(|e| error("fcntl", e))?;
        if !writable {
            return Err(error("write", io::Error::from_raw_os_error(libc::EBADF)));
        }
        let path = path.to_path_buf();
        Ok(Stream { to, path })
    }

    pub(super) fn file(&self) -> &File {
        &self.to
    }

    pub(super) fn write_out(&self, bytes: &[u8], sync: bool) -> Result<()> {
        // Flush stdout first, so that earlier output precedes ours.
        let _ = io::stdout().flush();
        let error = |operation, e| Error::os(operation, Some(&self.path), e);
        write::write_all(&self.to, bytes).map_err(|e| error("write", e))?;
        if !sync {
            return Ok(());
        }
        match self.to.sync_all() {
            // Pipes, terminals and files of /proc cannot be synced.
            Err(e) if !is_unsyncable(&e) => Err(error("fsync", e)),
            _ => Ok(()),
        }
    }
}

fn is_unsyncable(error: &io::Error) -> bool {
    // Not EROFS: so ends an fsync of ext4 after an error of the device.
    let unsyncable = [libc::EINVAL, libc::EOPNOTSUPP, libc::ENOSYS];
    error
        .raw_os_error()
        .is_some_and(|e| unsyncable.contains(&e))
}
