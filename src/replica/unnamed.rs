//! Files without a name: nobody else can open them, and they go with their last mapping.

use super::memory::Memory;
use crate::sys::file;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// One step of a copy, in bytes.
const STEP: usize = 1 << 20;

/// A reflink clone of a whole file (`FICLONE`, ioctl_ficlone(2)): its bytes of one moment, no matter how many. `None`
/// where the file system has no clones, or gives us no place for one.
pub(crate) fn clone_of(fd: BorrowedFd<'_>, file_system: i64) -> Option<File> {
    if !file::may_clone(file_system) {
        return None;
    }
    folders(fd).iter().find_map(|folder| {
        let clone = tempfile::tempfile_in(folder).ok()?;
        file::clone_into(fd, clone.as_fd()).ok()?;
        Some(clone)
    })
}

/// A copy of a range of a file, or of less if it ends before. `step` is told the bytes done and may stop the copy.
pub(crate) fn copy_to_disk(
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    step: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<(File, u64)> {
    let mut last = io::Error::from_raw_os_error(libc::ENOSPC);
    for folder in folders(fd) {
        let copied =
            tempfile::tempfile_in(folder).and_then(|file| copy_into(fd, range.clone(), file, step));
        match copied {
            Ok(copied) => return Ok(copied),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn copy_into(
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    mut to: File,
    step: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<(File, u64)> {
    let mut buffer = Memory::with_capacity(STEP)?;
    let mut done = 0;
    while range.start + done < range.end {
        let left = usize::try_from(range.end - range.start - done).unwrap_or(usize::MAX);
        buffer.clear();
        let n = buffer.read_from(left, |into| file::read_at(fd, into, range.start + done))?;
        if n == 0 {
            break;
        }
        to.write_all(buffer.bytes())?;
        done += n as u64;
        step(done)?;
    }
    Ok((to, done))
}

/// Where an unnamed file may be put, best first: beside the file, as that is where files of its size go; then the
/// folders for temporary files, the one that outlives a reboot (and so is on a disk) before the other.
fn folders(fd: BorrowedFd<'_>) -> Vec<PathBuf> {
    let beside = file::name(fd).and_then(|name| name.parent().map(Path::to_path_buf));
    let beside = beside.filter(|folder| folder.is_absolute());
    let temporary = [PathBuf::from("/var/tmp"), std::env::temp_dir()];
    beside.into_iter().chain(temporary).collect()
}
