//! System calls that make, fill and sync files: O_TMPFILE, fallocate, sync_file_range, flock, writes without SIGPIPE.

use super::{call, limits};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;

/// A C string, or `EINVAL` for one with a NUL in it, as [`std::fs`] says it.
pub(crate) fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn open_at(dir: i32, path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: openat(2) reads a C string and touches no other memory of ours.
    let fd = call(|| unsafe { libc::openat(dir, path.as_ptr(), flags | libc::O_CLOEXEC, mode) })?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A directory, to name files in it and to sync it; where it may be searched but not listed, only to name files in it.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let path = c_string(path.as_os_str())?;
    let open = |flags| open_at(libc::AT_FDCWD, &path, flags | libc::O_DIRECTORY, 0);
    match open(libc::O_RDONLY) {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => open(libc::O_PATH),
        other => other,
    }
}

/// A file without a name on the file system of `dir`, open(2) `O_TMPFILE` (Linux 3.11). The umask counts.
pub(crate) fn unnamed(dir: BorrowedFd<'_>, mode: u32) -> io::Result<File> {
    let flags = libc::O_TMPFILE | libc::O_RDWR;
    open_at(dir.as_raw_fd(), c".", flags, mode).map(File::from)
}

/// True if `O_TMPFILE` was refused because the file system or the kernel does not know it.
pub(crate) fn is_unnamed_unknown(error: &io::Error) -> bool {
    // EISDIR: a kernel that does not know the flag. ENOENT: some file systems of old kernels.
    let unknown = [
        libc::EOPNOTSUPP,
        libc::EISDIR,
        libc::ENOENT,
        libc::EINVAL,
        libc::ENOSYS,
    ];
    error.raw_os_error().is_some_and(|e| unknown.contains(&e))
}

/// Opens a name in `dir` for reading, without following a link and without waiting for anybody.
pub(crate) fn open_beside(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    open_at(dir.as_raw_fd(), name, flags, 0).map(File::from)
}

/// Who owns a file and what may be done with it, fstatat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: (u64, u64),
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What a name in `dir` stands for; a link is not followed.
pub(crate) fn entry(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Entry> {
    let mut stat = MaybeUninit::<libc::stat64>::uninit();
    let flags = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: fstatat(2) reads a C string and writes one `struct stat` to the pointer, which has room for it.
    call(|| unsafe { libc::fstatat64(dir.as_raw_fd(), name.as_ptr(), stat.as_mut_ptr(), flags) })?;
    // SAFETY: fstatat(2) succeeded, so it is filled in.
    let stat = unsafe { stat.assume_init() };
    Ok(Entry {
        id: (stat.st_dev, stat.st_ino),
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
    })
}

/// `EACCES` or `EROFS` if this process may not write to a name in `dir`, faccessat(2).
pub(crate) fn may_write(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let (dir, mode, flags) = (dir.as_raw_fd(), libc::W_OK, libc::AT_EACCESS);
    // SAFETY: faccessat(2) reads a C string and touches no other memory of ours.
    call(|| unsafe { libc::faccessat(dir, name.as_ptr(), mode, flags) }).map(drop)
}

/// A second descriptor, close-on-exec, for the same open file as the number stands for.
pub(crate) fn duplicate(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    let fd = call(|| unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a descriptor was opened for writing.
pub(crate) fn is_writable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(matches!(access(fd)?, libc::O_WRONLY | libc::O_RDWR))
}

/// Whether a descriptor was opened for reading and writing.
pub(crate) fn is_read_write(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(access(fd)? == libc::O_RDWR)
}

/// What a descriptor was opened for, fcntl(2) `F_GETFL`; `O_PATH` is for none of it.
fn access(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: this fcntl(2) takes no argument and touches no memory of ours.
    let flags = call(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    Ok(flags & (libc::O_ACCMODE | libc::O_PATH))
}

/// One fallocate(2) reserves so many bytes. An interrupted call may undo what it did (tmpfs does), so no signal is let
/// in while it runs, and it must not run for long.
const STEP: u64 = 64 << 20;

/// Grants disk blocks to `start..end`, and makes the file at least `end` bytes long: writing there cannot fail for
/// lack of space. Bytes that were there stay.
pub(crate) fn allocate(fd: BorrowedFd<'_>, start: u64, end: u64) -> io::Result<()> {
    if end.saturating_sub(start) > free_space(fd)? {
        // Rather than take all there is first.
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    grant(fd, start, end, 0)
}

/// Grants disk blocks to the first `len` bytes, holes included. A file that is shorter becomes so long, by one step and
/// last; none shrinks.
pub(crate) fn allocate_front(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    if len > limits::file_size() {
        // Before anything is taken, and without SIGXFSZ.
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    // An answer that cannot be had is no obstacle.
    if !has_room(fd, len).unwrap_or(true) {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    grant(fd, 0, len, libc::FALLOC_FL_KEEP_SIZE)?;
    grant(fd, len.saturating_sub(1), len, 0)
}

/// fallocate(2), without asking first; with `FALLOC_FL_KEEP_SIZE` as the mode, the file stays as long as it is.
pub(super) fn grant(fd: BorrowedFd<'_>, start: u64, end: u64, mode: i32) -> io::Result<()> {
    let mut at = start;
    while at < end {
        let len = STEP.min(end - at);
        let _blocked = Blocked::all(&[libc::SIGXFSZ]);
        let (offset, step) = (signed(at)?, signed(len)?);
        // SAFETY: fallocate(2) touches no memory.
        call(|| unsafe { libc::fallocate64(fd.as_raw_fd(), mode, offset, step) })?;
        at += len;
    }
    Ok(())
}

/// Bytes that nobody has and we may take, fstatvfs(3); no limit where the file system has none (ramfs).
fn free_space(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut stat = MaybeUninit::<libc::statvfs64>::uninit();
    // SAFETY: fstatvfs(3) writes one `struct statvfs` to the pointer, which has room for it.
    call(|| unsafe { libc::fstatvfs64(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstatvfs(3) succeeded, so it is filled in.
    let stat = unsafe { stat.assume_init() };
    // SAFETY: geteuid(2) touches no memory.
    let free = match unsafe { libc::geteuid() } {
        0 => stat.f_bfree,
        _ => stat.f_bavail,
    };
    Ok(match stat.f_blocks {
        0 => u64::MAX,
        _ => free.saturating_mul(stat.f_frsize as u64),
    })
}

/// False if the disk plainly has no room for the first `len` bytes of a file beyond what the file takes already.
/// An allocation that fails half-way may keep what it got, and on tmpfs it may take all memory on the way.
fn has_room(fd: BorrowedFd<'_>, len: u64) -> io::Result<bool> {
    let mut stat = MaybeUninit::<libc::stat64>::uninit();
    // SAFETY: fstat(2) writes one `struct stat` to the pointer, which has room for it.
    call(|| unsafe { libc::fstat64(fd.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: fstat(2) succeeded, so it is filled in.
    let taken = unsafe { stat.assume_init() }.st_blocks;
    Ok(len.saturating_sub(taken.unsigned_abs() * 512) <= free_space(fd)?)
}

pub(super) fn signed(n: u64) -> io::Result<i64> {
    i64::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Starts to write a range to the disk and does not wait: sync_file_range(2). A length of 0 is the rest of the file.
/// It promises nothing, so a file system that does not know it is no error.
pub(crate) fn start_writeback(fd: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (signed(offset)?, signed(len)?);
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: sync_file_range(2) touches no memory.
    call(|| unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, flags) }).map(drop)
}

/// The names in a directory: fsync(2) of it.
pub(crate) fn sync_directory(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fsync(2) touches no memory.
    call(|| unsafe { libc::fsync(fd.as_raw_fd()) }).map(drop)
}

/// Everything of the file system that holds `fd`: syncfs(2).
pub(crate) fn sync_file_system(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: syncfs(2) touches no memory.
    call(|| unsafe { libc::syncfs(fd.as_raw_fd()) }).map(drop)
}

/// ftruncate(2).
pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    within_limit(|| file.set_len(len))
}

/// pwrite(2), until all bytes are written.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    within_limit(|| file.write_all_at(bytes, offset))
}

/// flock(2), exclusive; false if somebody else has it.
pub(crate) fn try_lock(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: flock(2) touches no memory.
    match call(|| unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// Writes all bytes at the descriptor's offset, waiting where it is in non-blocking mode. A reader that went away is
/// `EPIPE`, a file that may not grow so far `EFBIG`, never a signal.
pub(crate) fn write_all(mut to: &File, bytes: &[u8]) -> io::Result<()> {
    let _quiet = Blocked::only(&[libc::SIGPIPE, libc::SIGXFSZ]);
    let mut rest = bytes;
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait_writable(to)?,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn wait_writable(to: &File) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: to.as_raw_fd(),
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: poll(2) reads and writes the one `struct pollfd` it is given.
    call(|| unsafe { libc::poll(&mut poll, 1, -1) }).map(drop)
}

/// A call that may make a file longer: over RLIMIT_FSIZE there is an error and a signal; the error is enough.
pub(super) fn within_limit<T>(lengthen: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let _quiet = Blocked::only(&[libc::SIGXFSZ]);
    lengthen()
}

/// Signals that are held back from this thread until it is dropped.
pub(super) struct Blocked {
    before: libc::sigset_t,
    /// Signals that our own system calls may raise, and that are taken away then; not those that waited before.
    raised: libc::sigset_t,
}

impl Blocked {
    /// Everything.
    pub(super) fn all(raised: &[i32]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset(3) writes one set to the pointer, which has room for it.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: filled in above.
        Blocked::set(&unsafe { set.assume_init() }, raised)
    }

    fn only(raised: &[i32]) -> Self {
        Blocked::set(&set_of(raised.iter().copied()), raised)
    }

    fn set(set: &libc::sigset_t, raised: &[i32]) -> Self {
        let mut before = MaybeUninit::zeroed();
        // SAFETY: pthread_sigmask(3) reads one set and writes the other; both pointers are good.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set, before.as_mut_ptr()) };
        let mut waiting = MaybeUninit::zeroed();
        // SAFETY: sigpending(2) writes one set to the pointer, which has room for it.
        unsafe { libc::sigpending(waiting.as_mut_ptr()) };
        // SAFETY: filled in above; zeroed is the empty set.
        let is_waiting = |signal| unsafe { libc::sigismember(waiting.as_ptr(), signal) == 1 };
        Blocked {
            // SAFETY: filled in above; it cannot fail for SIG_BLOCK, and zeroed would be the empty set.
            before: unsafe { before.assume_init() },
            raised: set_of(raised.iter().copied().filter(|&signal| !is_waiting(signal))),
        }
    }
}

fn set_of(signals: impl Iterator<Item = i32>) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) writes one set to the pointer, which has room for it.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was filled in above.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: as above.
    unsafe { set.assume_init() }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: sigtimedwait(2) reads a set and a time; it does not wait, and gives no information.
        while unsafe { libc::sigtimedwait(&self.raised, ptr::null_mut(), &now) } > 0 {}
        // SAFETY: pthread_sigmask(3) reads one set, filled in by `set`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}
