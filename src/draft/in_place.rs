//! A file that is written over, and keeps its inode, links, owner and rights.

use super::target::TargetName;
use crate::error::Result;
use crate::space;
use crate::sys::{dir, write};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

#[derive(Debug)]
pub(super) struct InPlaceFile {
    target: TargetName,
}

impl InPlaceFile {
    /// The file exists. Only `commit` opens it, so until then other programs can use it without restriction.
    pub(super) fn new(target: TargetName) -> Result<Self> {
        target.check_writable()?;
        Ok(InPlaceFile { target })
    }

    pub(super) fn path(&self) -> &Path {
        &self.target.path
    }

    pub(super) fn target(&self) -> &TargetName {
        &self.target
    }

    /// Reserves space, writes the bytes, sets the length, syncs.
    pub(super) fn overwrite(&self, bytes: &[u8], sync: bool) -> Result<()> {
        let target = &self.target;
        let error = |operation| move |e: io::Error| target.error(operation, e);
        let directory = self.target.directory()?;
        self.target.check_not_edited()?;
        let file = self.target.open(libc::O_WRONLY)?;
        let stat = dir::stat(file.as_fd()).map_err(error("fstat"))?;
        target.check_sticky(&directory, &stat)?;
        let len = bytes.len() as u64;
        let before = space::allocate_for_overwrite(&file, len);
        let before = before.map_err(error("fallocate"))?;
        let written = write::write_all_at(&file, bytes, 0);
        written.map_err(|e| {
            before.restore(&file, len);
            error("pwrite")(e)
        })?;
        if stat.size != len {
            write::set_len(&file, len).map_err(error("ftruncate"))?;
        }
        if sync {
            file.sync_all().map_err(error("fsync"))?;
        }
        Ok(())
    }
}
