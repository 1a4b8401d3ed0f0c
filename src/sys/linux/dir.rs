//! System calls on the names in a directory: openat, fstatat, faccessat, linkat, renameat, unlinkat, readlinkat.

use super::descriptor::beyond_stdio;
use super::{credentials, is_call_unknown, retry_eintr};
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// A C string, or `EINVAL` if there is a NUL in it, as [`std::fs`] returns.
pub(crate) fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The working directory, as the `dir` of the functions below.
pub(crate) fn working_directory() -> BorrowedFd<'static> {
    // SAFETY: AT_FDCWD is not -1, is never closed, and is valid for every call that takes a directory.
    unsafe { BorrowedFd::borrow_raw(libc::AT_FDCWD) }
}

/// openat(2), close-on-exec.
pub(crate) fn open_at(
    dir: BorrowedFd<'_>,
    name: &CStr,
    flags: i32,
    mode: u32,
) -> io::Result<OwnedFd> {
    let (dir, flags) = (dir.as_raw_fd(), flags | libc::O_CLOEXEC);
    // SAFETY: openat(2) reads a C string and touches no other memory of ours.
    let fd = retry_eintr(|| unsafe { libc::openat64(dir, name.as_ptr(), flags, mode) })?;
    // SAFETY: the kernel just returned this descriptor, and nothing else has it.
    beyond_stdio(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a directory, to name files in it and to sync it; with search but no read permission, only to name files.
pub(crate) fn open_directory(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    let open = |flags| open_at(dir, path, flags | libc::O_DIRECTORY, 0);
    match open(libc::O_RDONLY) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => open(libc::O_PATH),
        other => other,
    }
}

/// Creates a file without a name on the file system of `dir`: open(2) `O_TMPFILE` (Linux 3.11). The umask and a default
/// ACL of the directory apply.
pub(crate) fn open_tmpfile(dir: BorrowedFd<'_>, mode: u32) -> io::Result<File> {
    open_at(dir, c".", libc::O_TMPFILE | libc::O_RDWR, mode).map(File::from)
}

/// True if `O_TMPFILE` failed because the file system or the kernel does not support it.
pub(crate) fn is_tmpfile_unsupported(error: &io::Error) -> bool {
    // EISDIR: a kernel without the flag. ENOENT: some file systems of old kernels.
    let unsupported = [
        libc::EOPNOTSUPP,
        libc::EISDIR,
        libc::ENOENT,
        libc::EINVAL,
        libc::ENOSYS,
    ];
    error
        .raw_os_error()
        .is_some_and(|e| unsupported.contains(&e))
}

/// Owner, mode and identity of a file: stat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InodeStat {
    /// Device and inode.
    pub(crate) id: (u64, u64),
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u64,
    pub(crate) size: u64,
    /// When owner, mode, attributes or bytes last changed: seconds and nanoseconds.
    pub(crate) changed: (i64, i64),
}

impl InodeStat {
    pub(crate) fn file_type(&self) -> u32 {
        self.mode & libc::S_IFMT
    }

    pub(crate) fn is_regular(&self) -> bool {
        self.file_type() == libc::S_IFREG
    }

    pub(crate) fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}

/// fstatat(2) of a name in `dir`; a symbolic link is not followed. The empty name is `dir` itself.
pub(crate) fn stat_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<InodeStat> {
    let mut stat = MaybeUninit::<libc::stat64>::uninit();
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH;
    // SAFETY: fstatat(2) reads a C string and writes one `struct stat` to the pointer, which has room for it.
    retry_eintr(|| unsafe {
        libc::fstatat64(dir.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), flags)
    })?;
    // SAFETY: fstatat(2) succeeded, so it is filled in.
    let stat = unsafe { stat.assume_init() };
    #[allow(clippy::unnecessary_cast)] // the types differ between architectures
    Ok(InodeStat {
        id: (stat.st_dev as u64, stat.st_ino as u64),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: stat.st_nlink as u64,
        size: stat.st_size as u64,
        changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
    })
}

/// fstat(2).
pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<InodeStat> {
    stat_at(fd, c"")
}

/// `STATX_ATTR_*` of a file that may be open as `O_PATH`: statx(2), Linux 4.11. 0 where the kernel does not know.
pub(crate) fn attributes(fd: BorrowedFd<'_>) -> u64 {
    statx(fd, libc::STATX_TYPE).map_or(0, |stat| stat.stx_attributes)
}

/// Which mount a descriptor belongs to: the same directory may be mounted at several paths. Linux 5.8; `None` before.
pub(crate) fn mount_id(fd: BorrowedFd<'_>) -> Option<u64> {
    let stat = statx(fd, libc::STATX_MNT_ID).ok()?;
    (stat.stx_mask & libc::STATX_MNT_ID != 0).then_some(stat.stx_mnt_id)
}

fn statx(fd: BorrowedFd<'_>, wanted: libc::c_uint) -> io::Result<libc::statx> {
    let mut stat = MaybeUninit::<libc::statx>::uninit();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: statx(2) writes one `struct statx` to the pointer, which has room for it; the path is a C string.
    retry_eintr(|| unsafe {
        libc::syscall(
            libc::SYS_statx,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            wanted,
            stat.as_mut_ptr(),
        )
    })?;
    // SAFETY: statx(2) succeeded, so it is filled in.
    Ok(unsafe { stat.assume_init() })
}

/// Checks for write permission on a name in `dir`: faccessat(2) with the effective user. A link is followed.
pub(crate) fn check_writable(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let (dir, name, mode) = (dir.as_raw_fd(), name.as_ptr(), libc::W_OK);
    // SAFETY: faccessat(3) reads a C string and touches no other memory of ours.
    let checked = retry_eintr(|| unsafe { libc::faccessat(dir, name, mode, libc::AT_EACCESS) });
    match checked {
        // The C library calls faccessat2(2), Linux 5.8. For an immutable file both calls fail with `EPERM`.
        Err(error) if is_call_unknown(&error) && credentials::are_real() => {
            // SAFETY: as above.
            retry_eintr(|| unsafe { libc::syscall(libc::SYS_faccessat, dir, name, mode) }).map(drop)
        }
        checked => checked.map(drop),
    }
}

/// The target of the symbolic link that `link` has open (`O_PATH | O_NOFOLLOW`): readlinkat(2).
pub(crate) fn read_link(link: BorrowedFd<'_>) -> io::Result<OsString> {
    let mut target = [0_u8; libc::PATH_MAX as usize];
    let (start, room) = (target.as_mut_ptr().cast(), target.len());
    // SAFETY: readlinkat(2) reads a C string and writes at most `room` bytes to `target`.
    let n =
        retry_eintr(|| unsafe { libc::readlinkat(link.as_raw_fd(), c"".as_ptr(), start, room) })?;
    Ok(OsString::from_vec(target[..n.unsigned_abs()].to_vec()))
}

/// The path of a descriptor's file in /proc.
pub(crate) fn proc_path(fd: BorrowedFd<'_>) -> CString {
    CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

/// Gives an open file a name that does not exist yet: linkat(2) by way of /proc.
pub(crate) fn link(proc_path: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let (from, flags) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    let (path, dir) = (proc_path.as_ptr(), dir.as_raw_fd());
    // SAFETY: linkat(2) reads two C strings and touches no other memory of ours.
    retry_eintr(|| unsafe { libc::linkat(from, path, dir, name.as_ptr(), flags) }).map(drop)
}

/// The same without /proc: `AT_EMPTY_PATH`. Needs the credentials that opened the file (Linux 6.10) or
/// CAP_DAC_READ_SEARCH.
pub(crate) fn link_fd(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let (fd, dir, flags) = (fd.as_raw_fd(), dir.as_raw_fd(), libc::AT_EMPTY_PATH);
    // SAFETY: linkat(2) reads two C strings and touches no other memory of ours.
    retry_eintr(|| unsafe { libc::linkat(fd, c"".as_ptr(), dir, name.as_ptr(), flags) }).map(drop)
}

/// A second name for a file in the same directory: linkat(2).
pub(crate) fn link_at(dir: BorrowedFd<'_>, from: &CStr, to: &CStr) -> io::Result<()> {
    let dir = dir.as_raw_fd();
    // SAFETY: linkat(2) reads two C strings and touches no other memory of ours.
    retry_eintr(|| unsafe { libc::linkat(dir, from.as_ptr(), dir, to.as_ptr(), 0) }).map(drop)
}

/// renameat(2) inside one directory: `to` is replaced in one step.
pub(crate) fn rename(dir: BorrowedFd<'_>, from: &CStr, to: &CStr) -> io::Result<()> {
    let dir = dir.as_raw_fd();
    // SAFETY: renameat(2) reads two C strings and touches no other memory of ours.
    retry_eintr(|| unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) }).map(drop)
}

/// The same, but `EEXIST` if `to` exists: renameat2(2) `RENAME_NOREPLACE`, Linux 3.15.
pub(crate) fn rename_noreplace(dir: BorrowedFd<'_>, from: &CStr, to: &CStr) -> io::Result<()> {
    let (dir, flags) = (dir.as_raw_fd(), libc::RENAME_NOREPLACE);
    let (from, to) = (from.as_ptr(), to.as_ptr());
    // By its number: musl has no function for it.
    // SAFETY: renameat2(2) reads two C strings and touches no other memory of ours.
    retry_eintr(|| unsafe { libc::syscall(libc::SYS_renameat2, dir, from, dir, to, flags) })
        .map(drop)
}

/// unlinkat(2).
pub(crate) fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: unlinkat(2) reads a C string and touches no other memory of ours.
    retry_eintr(|| unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}
