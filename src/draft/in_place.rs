//! Writes over a file, which keeps its inode, links, owner and rights.

use super::target::TargetName;
use crate::error::Result;
use crate::space;
use crate::sys::{dir, write};
use std::io;
use std::os::fd::AsFd;

/// Reserves space, writes the bytes, sets the length, syncs. The file is opened here and no earlier, so that other programs can
/// use it without restriction.
pub(super) fn overwrite(target: &TargetName, bytes: &[u8], sync: bool) -> Result<()> {
    let error = |operation| move |e: io::Error| target.error(operation, e);
    let directory = target.directory()?;
    target.check_not_edited()?;
    let file = target.open(libc::O_WRONLY)?;
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
