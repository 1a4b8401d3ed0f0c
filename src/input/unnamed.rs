//! Files without a name: nobody else can open them, and they go with their last mapping.

use crate::file_system::FileSystem;
use crate::sys::{file, write};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// One step of a copy, in bytes.
const STEP: usize = 1 << 20;

/// A reflink clone of a whole file (`FICLONE`, ioctl_ficlone(2)): its bytes of one moment, no matter how many. `None`
/// where the file system has no clones, or gives us no place for one.
pub(crate) fn clone_of(fd: BorrowedFd<'_>, system: FileSystem) -> Option<File> {
    if !system.may_clone() {
        return None;
    }
    folders(fd).iter().find_map(|folder| {
        let clone = local_file(folder).ok()?;
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
        let copied = local_file(&folder).and_then(|file| copy_into(fd, range.clone(), file, step));
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
    to: File,
    step: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<(File, u64)> {
    if FileSystem::from_fd(to.as_fd())? == FileSystem::Tmpfs {
        // There a hole takes a page when it is read, and is a SIGBUS if there is none.
        write::allocate(to.as_fd(), 0, range.end - range.start)?;
    }
    let mut offset = range.start;
    'copy: while offset < range.end {
        // Holes stay holes: a sparse file may be larger than any disk.
        let Some((start, end)) = file::next_data(fd, offset)? else {
            offset = range.end.min(file::stat(fd)?.size).max(range.start);
            break;
        };
        offset = start;
        while offset < end.min(range.end) {
            let left = usize::try_from(end.min(range.end) - offset).unwrap_or(STEP);
            let n = move_bytes(fd, &to, (offset, offset - range.start), left.min(STEP))?;
            if n == 0 {
                // It ends here, whatever it says: files of /sys do that.
                break 'copy;
            }
            offset += n as u64;
            step(offset - range.start)?;
        }
    }
    let len = offset.min(range.end) - range.start;
    write::set_len(&to, len)?;
    Ok((to, len))
}

/// Copies up to `most` bytes, from one offset to the other. In the kernel if it can: this may run because there is no
/// memory.
fn move_bytes(
    fd: BorrowedFd<'_>,
    to: &File,
    offsets: (u64, u64),
    most: usize,
) -> io::Result<usize> {
    match file::copy_range(fd, to.as_fd(), offsets, most) {
        Err(e) if file::cannot_copy_range(&e) => {}
        other => return other,
    }
    let mut buffer = [MaybeUninit::uninit(); 64 << 10];
    let room = buffer.len().min(most);
    let bytes = file::read_at(fd, &mut buffer[..room], offsets.0)?;
    write::write_all_at(to, bytes, offsets.1)?;
    Ok(bytes.len())
}

/// An unnamed file where no server and no other program has the bytes.
fn local_file(folder: &Path) -> io::Result<File> {
    let file = tempfile::tempfile_in(folder)?;
    match FileSystem::from_fd(file.as_fd())?.is_local() {
        true => Ok(file),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Where an unnamed file may be put, best first: beside the file, as that is where files of its size go; then the
/// folders for temporary files, the one that outlives a reboot (and so is on a disk) before the other.
fn folders(fd: BorrowedFd<'_>) -> Vec<PathBuf> {
    let beside = file::name(fd).and_then(|name| name.parent().map(Path::to_path_buf));
    let beside = beside.filter(|folder| folder.is_absolute());
    let temporary = [PathBuf::from("/var/tmp"), std::env::temp_dir()];
    beside.into_iter().chain(temporary).collect()
}
