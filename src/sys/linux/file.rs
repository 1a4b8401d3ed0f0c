//! System calls on descriptors: open, fstat, read, lseek, seals.

use super::descriptor::{Wait, beyond_stdio, flags, poll};
use super::signal_mask::without_sigxfsz;
use super::{is_call_unknown, retry_eintr, to_off_t};
use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// open(2) for reading, close-on-exec. Opening a FIFO blocks until it has a writer.
pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
    open_with(path, 0)
}

/// The same with `O_NONBLOCK`: a FIFO is opened at once, with or without a writer. Fails with `EWOULDBLOCK` if another
/// process holds a write lease.
pub(crate) fn open_nonblocking(path: &Path) -> io::Result<OwnedFd> {
    open_with(path, libc::O_NONBLOCK)
}

fn open_with(path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let mut options = OpenOptions::new();
    // `std` takes the access mode by name only.
    let writes = flags & libc::O_ACCMODE == libc::O_RDWR;
    // A terminal must not become the controlling terminal of this process.
    let flags = libc::O_NOCTTY | flags;
    options.read(true).write(writes).custom_flags(flags);
    match options.open(path) {
        Ok(file) => beyond_stdio(file.into()),
        // Of a path with a NUL byte, `std` returns an error without a number.
        Err(e) if e.raw_os_error().is_none() => Err(io::Error::from_raw_os_error(libc::EINVAL)),
        Err(e) => Err(e),
    }
}

/// Turns `O_NONBLOCK` off, fcntl(2).
pub(crate) fn set_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = flags(fd)? & !libc::O_NONBLOCK;
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    retry_eintr(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

/// open(2) for reading and writing, close-on-exec; the file must exist.
pub(crate) fn open_read_write(path: &Path) -> io::Result<OwnedFd> {
    open_with(path, libc::O_RDWR)
}

/// True for a descriptor that may be read in aligned pieces only (`O_DIRECT`, open(2)).
pub(crate) fn is_direct(fd: BorrowedFd<'_>) -> bool {
    flags(fd).is_ok_and(|flags| flags & libc::O_DIRECT != 0)
}

fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// The kernel's name for the file behind a descriptor: a path, or `pipe:[7]`.
pub(crate) fn name(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    std::fs::read_link(proc_path(fd)).ok()
}

/// The type of a file, stat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileType {
    Regular,
    Directory,
    Block,
    Fifo,
    /// Character device, socket, or anything else.
    Other,
}

impl FileType {
    /// By `st_mode`.
    fn from_mode(mode: libc::mode_t) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFREG => FileType::Regular,
            libc::S_IFDIR => FileType::Directory,
            libc::S_IFBLK => FileType::Block,
            libc::S_IFIFO => FileType::Fifo,
            _ => FileType::Other,
        }
    }
}

/// Distinguishes two versions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: Time,
    changed: Time,
}

impl Stamp {
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    fn is_same_file(&self, other: &Stamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// True if neither bytes nor length have changed between the two. Links, permissions and owners may have.
    pub(crate) fn has_same_content(&self, other: &Stamp) -> bool {
        self.is_same_file(other) && (self.size, self.modified) == (other.size, other.modified)
    }

    /// The last change of bytes or metadata, in nanoseconds since 1970.
    pub(crate) fn changed_ns(&self) -> i64 {
        let Time(seconds, nanoseconds) = self.changed;
        seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(nanoseconds)
    }
}

/// Seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(i64, i64);

/// fstat(2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) kind: FileType,
    pub(crate) size: u64,
    /// Bytes in blocks that are allocated; less than `size` if there are holes.
    pub(crate) allocated: u64,
    pub(crate) stamp: Stamp,
    /// The unique id of the mount, if [`stat_and_mount`] has found it.
    pub(crate) mount: Option<u64>,
    /// True if [`stat_and_mount`] has found that the file is under fs-verity.
    pub(crate) is_verity: bool,
}

impl Stat {
    /// The number of the device that holds the file.
    pub(crate) fn device(&self) -> u64 {
        self.stamp.device
    }

    /// The major number of the device that holds the file; 0 if there is no device.
    pub(crate) fn device_major(&self) -> u32 {
        libc::major(self.stamp.device)
    }

    /// True for two descriptions of one file.
    pub(crate) fn is_same_file(&self, other: &Stat) -> bool {
        self.stamp.is_same_file(&other.stamp)
    }
}

#[allow(clippy::unnecessary_cast)] // the types differ between architectures
pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let mut stat = MaybeUninit::<libc::stat64>::uninit();
    let (number, into) = (fd.as_raw_fd(), stat.as_mut_ptr());
    // glibc 2.33 to 2.38 calls fstatat(2) with an empty path, which takes 0.2 µs longer. On x86-64 the kernel's `struct stat`
    // is that of every C library.
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
    // SAFETY: fstat(2) writes one `struct stat` to the pointer, which has room for it.
    retry_eintr(|| unsafe { libc::syscall(libc::SYS_fstat, number, into) })?;
    #[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64")))]
    // SAFETY: fstat(2) writes one `struct stat` to the pointer, which has room for it.
    retry_eintr(|| unsafe { libc::fstat64(number, into) })?;
    // SAFETY: fstat(2) succeeded, so it is filled in.
    let stat = unsafe { stat.assume_init() };
    let size = stat.st_size.unsigned_abs();
    Ok(Stat {
        kind: FileType::from_mode(stat.st_mode),
        size,
        allocated: stat.st_blocks.unsigned_abs() * 512,
        stamp: Stamp {
            device: stat.st_dev as u64,
            inode: stat.st_ino,
            size,
            modified: Time(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: Time(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        },
        mount: None,
        is_verity: false,
    })
}

/// fstat(2), the mount (Linux 6.8), and whether the file is under fs-verity (Linux 5.5), in one call. Without the two
/// where statx(2) is not known or forbidden.
pub(crate) fn stat_and_mount(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    statx(fd).or_else(|_| stat(fd))
}

/// statx(2): the id of the mount, which is given to no other mount until the next boot.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

fn statx(fd: BorrowedFd<'_>) -> io::Result<Stat> {
    let mut stat = MaybeUninit::<libc::statx>::uninit();
    let (fd, empty, flags) = (fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH);
    let (number, mask) = (
        libc::SYS_statx,
        libc::STATX_BASIC_STATS | STATX_MNT_ID_UNIQUE,
    );
    // SAFETY: statx(2) writes one `struct statx` to the pointer, which has room for it; the path is a C string.
    retry_eintr(|| unsafe { libc::syscall(number, fd, empty, flags, mask, stat.as_mut_ptr()) })?;
    // SAFETY: statx(2) succeeded, so it is filled in.
    let stat = unsafe { stat.assume_init() };
    let time = |time: libc::statx_timestamp| Time(time.tv_sec, i64::from(time.tv_nsec));
    // Kernels that do not know the bit leave it out, and return an id that the next mount may get.
    let has_mount = stat.stx_mask & STATX_MNT_ID_UNIQUE != 0;
    let stamp = Stamp {
        device: libc::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        modified: time(stat.stx_mtime),
        changed: time(stat.stx_ctime),
    };
    Ok(Stat {
        kind: FileType::from_mode(u32::from(stat.stx_mode)),
        size: stat.stx_size,
        allocated: stat.stx_blocks * 512,
        stamp,
        mount: has_mount.then_some(stat.stx_mnt_id),
        is_verity: stat.stx_attributes & libc::STATX_ATTR_VERITY as u64 != 0,
    })
}

/// read(2) at the descriptor's offset, or pread(2): returns the filled start of `into`; empty at the end. Waits for bytes
/// also where the descriptor is in non-blocking mode.
pub(crate) fn read<'m>(
    fd: BorrowedFd<'_>,
    into: &'m mut [MaybeUninit<u8>],
    offset: Option<u64>,
) -> io::Result<&'m mut [u8]> {
    let (number, start, len) = (fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len());
    let offset = offset.map(to_off_t).transpose()?;
    let read = || match offset {
        // SAFETY: read(2) writes at most `len` bytes to `into`.
        None => unsafe { libc::read(number, start, len) },
        // SAFETY: as above.
        Some(offset) => unsafe { libc::pread64(number, start, len, offset) },
    };
    loop {
        match retry_eintr(read) {
            Ok(n) => return Ok(filled(into, n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait_readable(fd)?,
            Err(e) => return Err(e),
        }
    }
}

/// pread(2): the same at an offset, the descriptor's own stays; `ESPIPE` where there are no offsets.
pub(crate) fn read_at<'m>(
    fd: BorrowedFd<'_>,
    into: &'m mut [MaybeUninit<u8>],
    offset: u64,
) -> io::Result<&'m mut [u8]> {
    let offset = to_off_t(offset)?;
    let start = into.as_mut_ptr().cast();
    // SAFETY: pread(2) writes at most `into.len()` bytes to `into`.
    let n = retry_eintr(|| unsafe { libc::pread64(fd.as_raw_fd(), start, into.len(), offset) })?;
    Ok(filled(into, n))
}

/// pread(2) until `into` is full or the file ends; returns how many bytes.
pub(crate) fn read_full_at(
    fd: BorrowedFd<'_>,
    into: &mut [MaybeUninit<u8>],
    offset: u64,
) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        let n = read_at(fd, &mut into[done..], offset + done as u64)?.len();
        if n == 0 {
            break;
        }
        done += n;
    }
    Ok(done)
}

/// The first `n` bytes, which a system call has written.
fn filled(into: &mut [MaybeUninit<u8>], n: isize) -> &mut [u8] {
    let filled = &mut into[..n.unsigned_abs()];
    let (start, len) = (filled.as_mut_ptr().cast(), filled.len());
    // SAFETY: the same memory, borrowed as long, and the kernel has written every byte of it.
    unsafe { std::slice::from_raw_parts_mut(start, len) }
}

/// copy_file_range(2): up to `most` bytes at an offset of one file to the same offset of another, inside the kernel.
pub(crate) fn copy_range(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    offsets: (u64, u64),
    most: usize,
) -> io::Result<usize> {
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    let (mut out, mut into) = (to_off_t(offsets.0)?, to_off_t(offsets.1)?);
    let (out, into) = (&raw mut out, &raw mut into);
    let number = libc::SYS_copy_file_range;
    without_sigxfsz(|| {
        // SAFETY: copy_file_range(2) reads and writes the two offsets.
        retry_eintr(|| unsafe { libc::syscall(number, from, out, to, into, most, 0) })
    })
    .map(|copied| copied.unsigned_abs() as usize)
}

/// Waits until no process is inside a write(2) to the file: ext4, btrfs, f2fs, tmpfs and overlayfs lock the inode for one,
/// and for lseek(2) with SEEK_HOLE. No hole is so far behind the end, so the offset stays.
pub(crate) fn wait_for_write(fd: BorrowedFd<'_>) {
    let _ = seek(fd, i64::MAX, libc::SEEK_HOLE);
}

/// The next bytes from `offset` on that are no hole, lseek(2) with SEEK_DATA and SEEK_HOLE: where they start and end.
/// `None` if there are none. The descriptor's own offset stays.
pub(crate) fn next_data(fd: BorrowedFd<'_>, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let before = position(fd)?;
    let start = seek(fd, to_off_t(offset)?, libc::SEEK_DATA);
    let found = match start {
        Ok(start) => seek(fd, to_off_t(start)?, libc::SEEK_HOLE).map(|end| Some((start, end))),
        // A device has no holes.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(Some((offset, u64::MAX))),
        // Nothing but a hole up to the end.
        Err(e) if e.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(e) => Err(e),
    };
    set_position(fd, before)?;
    found
}

/// True if [`copy_range`] is not for these files or this kernel (before Linux 5.3: for two file systems).
pub(crate) fn cannot_copy_range(error: &io::Error) -> bool {
    let is_for_others = matches!(
        error.raw_os_error(),
        Some(libc::EXDEV | libc::EINVAL | libc::EOPNOTSUPP)
    );
    is_for_others || is_call_unknown(error)
}

/// Waits until a descriptor in non-blocking mode has bytes, or its end.
fn wait_readable(fd: BorrowedFd<'_>) -> io::Result<()> {
    poll(fd, libc::POLLIN, Wait::Forever).map(drop)
}

/// What has become of a FIFO since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FifoState {
    /// No process had it open for writing, or one has and has written nothing.
    NoWriter,
    HasBytes,
    /// All writers have closed it.
    Ended,
}

/// By poll(2), which reports `POLLHUP` only if there was a writer.
pub(crate) fn fifo_state(fd: BorrowedFd<'_>) -> FifoState {
    match poll(fd, libc::POLLIN, Wait::No) {
        Ok(0) | Err(_) => FifoState::NoWriter,
        Ok(events) if events & libc::POLLIN != 0 => FifoState::HasBytes,
        Ok(_) => FifoState::Ended,
    }
}

/// True if the page at `offset` is in the page cache, as far as preadv2(2) with `RWF_NOWAIT` reports it (Linux 4.14).
pub(crate) fn is_cached(fd: BorrowedFd<'_>, offset: u64) -> bool {
    let Ok(offset) = to_off_t(offset) else {
        return false;
    };
    let mut byte = MaybeUninit::<u8>::uninit();
    let part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: preadv2(2) writes at most the one byte that the `struct iovec` names.
    let read = retry_eintr(|| unsafe {
        libc::syscall(
            libc::SYS_preadv2,
            fd.as_raw_fd(),
            &raw const part,
            1,
            offset,
            0,
            libc::RWF_NOWAIT,
        )
    });
    read.is_ok_and(|n| n == 1)
}

/// The descriptor's offset, or `ESPIPE` for what has none: pipe, FIFO, socket, terminal.
pub(crate) fn position(fd: BorrowedFd<'_>) -> io::Result<u64> {
    seek(fd, 0, libc::SEEK_CUR)
}

/// Sets the descriptor's offset.
pub(crate) fn set_position(fd: BorrowedFd<'_>, offset: u64) -> io::Result<u64> {
    seek(fd, to_off_t(offset)?, libc::SEEK_SET)
}

/// The size of a block device, in bytes: where its end is.
pub(crate) fn device_size(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let position = position(fd)?;
    let size = seek(fd, 0, libc::SEEK_END)?;
    set_position(fd, position)?;
    Ok(size)
}

fn seek(fd: BorrowedFd<'_>, offset: i64, whence: i32) -> io::Result<u64> {
    // SAFETY: lseek(2) touches no memory.
    retry_eintr(|| unsafe { libc::lseek64(fd.as_raw_fd(), offset, whence) }).map(i64::unsigned_abs)
}

/// `F_SETPIPE_SZ`, fcntl(2): the capacity got, or an error where it is no pipe or not allowed.
pub(crate) fn set_pipe_capacity(fd: BorrowedFd<'_>, bytes: i32) -> io::Result<usize> {
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    retry_eintr(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) })
        .map(|capacity| capacity.unsigned_abs() as usize)
}

/// The seals of a memfd; none for what cannot have any.
pub(crate) fn seals(fd: BorrowedFd<'_>) -> i32 {
    // SAFETY: this fcntl(2) takes no argument and touches no memory of ours.
    retry_eintr(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) }).unwrap_or(0)
}

/// `FICLONE`, ioctl_ficlone(2): all of `from`, as it is now, becomes the content of `to`.
pub(crate) fn clone_into(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    without_sigxfsz(|| {
        // SAFETY: this ioctl(2) takes a descriptor and touches no memory of ours.
        retry_eintr(|| unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) })
    })
    .map(drop)
}

/// memfd_create(2), close-on-exec, sealable, not executable where the kernel knows that (Linux 6.3).
pub(crate) fn memfd(name: &CStr) -> io::Result<File> {
    memfd_with(name, 0)
}

/// The same, of reserved huge pages: `MFD_HUGETLB`, Linux 4.14.
pub(crate) fn memfd_of_reserved_pages(name: &CStr) -> io::Result<File> {
    memfd_with(name, libc::MFD_HUGETLB)
}

fn memfd_with(name: &CStr, flags: libc::c_uint) -> io::Result<File> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | flags;
    let create = |flags: libc::c_uint| {
        // SAFETY: the name is a C string; the kernel copies it.
        retry_eintr(|| unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) })
    };
    let fd = match create(flags | libc::MFD_NOEXEC_SEAL) {
        // An older kernel does not know the flag.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(flags)?,
        other => other?,
    };
    // SAFETY: the kernel just gave us this descriptor, and no other code has it.
    beyond_stdio(unsafe { OwnedFd::from_raw_fd(fd as i32) }).map(File::from)
}

/// `F_ADD_SEALS`, fcntl(2).
pub(crate) fn add_seals(fd: BorrowedFd<'_>, seals: i32) -> io::Result<()> {
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    retry_eintr(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}
