//! Files without a name: only this process can reach them, and they disappear with their last mapping.

use crate::error::{Tried, is_no_space};
use crate::file_system::FileSystem;
use crate::space;
use crate::sys::{file, sync, write};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Bytes in one step of a copy; between two steps it can be stopped.
const COPY_CHUNK: usize = 1 << 20;

/// Bytes written between two checks of the free space.
pub(super) const SPACE_CHUNK: u64 = 16 << 20;

/// A reflink clone of a whole file (`FICLONE`, ioctl_ficlone(2)): its bytes at one moment, at the same cost for any
/// size. `None` where the file system has no clones, or no directory on it may be written to.
pub(crate) fn clone_of(fd: BorrowedFd<'_>, system: FileSystem) -> Option<File> {
    if !system.may_clone() {
        return None;
    }
    candidate_dirs(Some(fd)).iter().find_map(|dir| {
        let (clone, there) = unnamed_file(dir).ok()?;
        file::clone_into(fd, clone.as_fd()).ok()?;
        there.may_clone().then_some(clone)
    })
}

/// A copy of a range of a file, or of less if the file ends before. `step` is called with the bytes done, and may stop
/// the copy.
pub(crate) fn copy_to_disk(
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    step: &mut dyn FnMut(u64) -> io::Result<()>,
) -> Result<(File, u64), Tried> {
    let needed = file::stat(fd).map_or(u64::MAX, |stat| stat.allocated);
    let needed = needed.min(range.end - range.start);
    with_unnamed_file(Some(fd), needed, |file| {
        copy_into(fd, range.clone(), file, step)
    })
}

/// Calls `write` with an unnamed file on a disk that has `needed` bytes free, and with the next one if that failed.
/// Disks that are known to be local come first.
pub(crate) fn with_unnamed_file<T>(
    beside: Option<BorrowedFd<'_>>,
    needed: u64,
    mut write: impl FnMut(File) -> io::Result<T>,
) -> Result<T, Tried> {
    let mut tried = Tried::default();
    let mut maybe_disks = Vec::new();
    for dir in candidate_dirs(beside) {
        match unnamed_file(&dir) {
            Ok((file, system)) if system.is_local_disk(file.as_fd()) => {
                if let Some(written) = attempt(dir, file, needed, &mut write, &mut tried)? {
                    return Ok(written);
                }
            }
            Ok((file, system)) if system.is_maybe_disk(file.as_fd()) => {
                maybe_disks.push((dir, file))
            }
            Ok(_) => tried.push(dir, io::Error::other("not on a local disk")),
            Err(e) => tried.push(dir, e),
        }
    }
    for (dir, file) in maybe_disks {
        if let Some(written) = attempt(dir, file, needed, &mut write, &mut tried)? {
            return Ok(written);
        }
    }
    Err(tried)
}

/// `None` if there is no room: another disk may have some. Any other error would repeat in each directory.
fn attempt<T>(
    dir: PathBuf,
    file: File,
    needed: u64,
    write: &mut impl FnMut(File) -> io::Result<T>,
    tried: &mut Tried,
) -> Result<Option<T>, Tried> {
    match space::check_free(file.as_fd(), needed).and_then(|()| write(file)) {
        Ok(written) => Ok(Some(written)),
        Err(e) if is_no_space(&e) => {
            tried.push(dir, e);
            Ok(None)
        }
        Err(e) => Err(Tried::stopped(dir, e)),
    }
}

/// Copies a range of a file, or less if it ends before, into an empty file, and keeps holes. Allocates nothing.
pub(crate) fn copy_into(
    fd: BorrowedFd<'_>,
    range: Range<u64>,
    to: File,
    step: &mut dyn FnMut(u64) -> io::Result<()>,
) -> io::Result<(File, u64)> {
    let mut offset = range.start;
    let mut checked = offset;
    // In a file of ext2 or ext3, SEEK_DATA takes bytes that were not written back yet for a hole.
    let stat = file::stat(fd)?;
    let has_holes = || sync::write_back(fd, range.start, range.end - range.start).is_ok();
    let has_holes = !range.is_empty() && stat.allocated < stat.size && has_holes();
    'copy: while offset < range.end {
        // Holes stay holes: a sparse file may be larger than any disk.
        let data = if has_holes {
            file::next_data(fd, offset)?
        } else {
            Some((offset, range.end))
        };
        let Some((start, end)) = data else {
            offset = range.end.min(file::stat(fd)?.size).max(range.start);
            break;
        };
        offset = start;
        while offset < end.min(range.end) {
            if offset >= checked {
                // Compressed files, and those of /proc, need more than their blocks.
                space::check_free(to.as_fd(), SPACE_CHUNK.min(range.end - offset))?;
                checked = offset + SPACE_CHUNK;
            }
            let left = usize::try_from(end.min(range.end) - offset).unwrap_or(COPY_CHUNK);
            let offsets = (offset, offset - range.start);
            let n = copy_chunk(fd, &to, offsets, left.min(COPY_CHUNK))?;
            if n == 0 {
                // The end of the file, at less than its size: files of /sys do that.
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

/// Copies up to `most` bytes from one offset to the other, in the kernel if possible: this may run because memory is
/// short, and it is faster (64 MiB on ext4: 0.6 of the time of pread and pwrite; xfs and btrfs share the blocks).
fn copy_chunk(
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

fn unnamed_file(dir: &Path) -> io::Result<(File, FileSystem)> {
    let file = tempfile::tempfile_in(dir)?;
    let system = FileSystem::from_fd(file.as_fd())?;
    Ok((file, system))
}

/// Directories for an unnamed file, best first: that of the source, where files of that size are; then the directories
/// for temporary files, beginning with the one that is kept over a reboot, and so is on a disk; then the current directory.
fn candidate_dirs(beside: Option<BorrowedFd<'_>>) -> Vec<PathBuf> {
    let name = beside.and_then(file::name);
    let parent = name.and_then(|name| name.parent().map(Path::to_path_buf));
    let parent = parent.filter(|dir| dir.is_absolute());
    let mut dirs: Vec<_> = parent.into_iter().collect();
    let current = std::env::current_dir().ok();
    let temporary = [PathBuf::from("/var/tmp"), std::env::temp_dir()];
    for dir in temporary.into_iter().chain(current) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    dirs
}
