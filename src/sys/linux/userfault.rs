//! System calls for userfaultfd(2): memory whose first touch blocks until the page is supplied.

use super::descriptor::beyond_stdio;
use super::retry_eintr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// `struct uffdio_api`.
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct UffdCopy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

const UFFDIO_API: libc::Ioctl = libc::_IOWR::<Api>(0xaa, 0x3f);
const UFFDIO_REGISTER: libc::Ioctl = libc::_IOWR::<Register>(0xaa, 0);
const UFFDIO_COPY: libc::Ioctl = libc::_IOWR::<UffdCopy>(0xaa, 3);
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_EVENT_REMAP: u64 = 1 << 2;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
/// Without privilege only page faults of user code may block; a system call that touches a missing page fails with
/// `EFAULT` (Linux 5.11).
const UFFD_USER_MODE_ONLY: i32 = 1;
const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;

/// A userfaultfd whose memory can be moved (`UFFD_FEATURE_EVENT_REMAP`, Linux 4.11). When the last descriptor of it is
/// closed, missing pages read as zero.
pub(crate) fn create() -> io::Result<OwnedFd> {
    let open = |flags: i32| {
        // SAFETY: userfaultfd(2) takes an integer and touches no memory of ours.
        retry_eintr(|| unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS | flags) })
    };
    let fd = match open(0) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => open(UFFD_USER_MODE_ONLY),
        opened => opened,
    }?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
    // SAFETY: the kernel just returned this descriptor, and no other code has it.
    let fd = beyond_stdio(unsafe { OwnedFd::from_raw_fd(fd) })?;
    let mut api = Api {
        api: UFFD_API,
        features: UFFD_FEATURE_EVENT_REMAP,
        ioctls: 0,
    };
    // SAFETY: this ioctl(2) reads and writes one `struct uffdio_api`.
    retry_eintr(|| unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) })?;
    Ok(fd)
}

/// From here on a thread that touches a missing page of this anonymous memory blocks.
pub(crate) fn register(fd: BorrowedFd<'_>, start: NonNull<u8>, len: usize) -> io::Result<()> {
    let mut register = Register {
        start: start.as_ptr().addr() as u64,
        len: len as u64,
        mode: UFFDIO_REGISTER_MODE_MISSING,
        ioctls: 0,
    };
    let (fd, request) = (fd.as_raw_fd(), UFFDIO_REGISTER);
    // SAFETY: this ioctl(2) reads and writes one `struct uffdio_register`; it changes no byte of the memory.
    retry_eintr(|| unsafe { libc::ioctl(fd, request, &raw mut register) }).map(drop)
}

/// Acknowledges an event: mremap(2) blocks until then. False if there was none. A page fault needs no answer, since every
/// page is supplied anyway. It does not use poll(2), which fails where `RLIMIT_NOFILE` is 0.
pub(crate) fn acknowledge_event(fd: i32) -> bool {
    // `struct uffd_msg`.
    let mut message = [0_u8; 32];
    let (to, len) = (message.as_mut_ptr().cast(), message.len());
    // SAFETY: read(2) writes at most as many bytes as the buffer has; the descriptor is in non-blocking mode.
    retry_eintr(|| unsafe { libc::read(fd, to, len) }).is_ok_and(|n| n > 0)
}

/// Supplies missing pages: those from `to` on become a copy of `pages`. Threads that block on them continue.
///
/// # Safety
/// The pages belong to the caller, and code that accesses them expects these bytes.
pub(crate) unsafe fn copy_in(fd: BorrowedFd<'_>, to: NonNull<u8>, pages: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < pages.len() {
        let rest = &pages[done..];
        let mut copy = UffdCopy {
            to: (to.as_ptr().addr() + done) as u64,
            from: rest.as_ptr().addr() as u64,
            len: rest.len() as u64,
            mode: 0,
            copied: 0,
        };
        let (fd, request) = (fd.as_raw_fd(), UFFDIO_COPY);
        // SAFETY: this ioctl(2) reads `rest` and fills pages that are missing; see above.
        match retry_eintr(|| unsafe { libc::ioctl(fd, request, &raw mut copy) }) {
            Ok(_) => done += rest.len(),
            // Only a part, while the process forks or maps.
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {
                done += usize::try_from(copy.copied).unwrap_or(0);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
