//! System calls for userfaultfd(2): memory whose first touch waits until somebody gives the page.

use super::call;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// A descriptor through which pages are given. When it is closed, pages that were not given are zero.
pub(crate) struct Userfault(OwnedFd);

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
struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

const UFFDIO_API: u32 = 0xc018_aa3f;
const UFFDIO_REGISTER: u32 = 0xc020_aa00;
const UFFDIO_COPY: u32 = 0xc028_aa03;
const VERSION: u64 = 0xaa;
const FEATURE_EVENT_REMAP: u64 = 1 << 2;
const MODE_MISSING: u64 = 1;
/// Without privilege only the faults of the program itself may wait; a system call that touches a page that is missing
/// fails with `EFAULT` (Linux 5.11).
const USER_MODE_ONLY: i32 = 1;
const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;

impl Userfault {
    /// One whose memory can be moved (`UFFD_FEATURE_EVENT_REMAP`, Linux 4.11).
    pub(crate) fn new() -> io::Result<Self> {
        let open = |flags: i32| {
            // SAFETY: userfaultfd(2) takes an integer and touches no memory of ours.
            call(|| unsafe { libc::syscall(libc::SYS_userfaultfd, FLAGS | flags) })
        };
        let fd = open(0).or_else(|_| open(USER_MODE_ONLY))?;
        let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = Api {
            api: VERSION,
            features: FEATURE_EVENT_REMAP,
            ioctls: 0,
        };
        // SAFETY: this ioctl(2) reads and writes one `struct uffdio_api`.
        call(|| unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API as libc::Ioctl, &raw mut api) })?;
        Ok(Userfault(fd))
    }

    /// True if this process can have one: not under every seccomp filter, nor with every kernel.
    pub(crate) fn is_available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| Userfault::new().is_ok())
    }

    /// Whoever touches a page of anonymous memory that is not there yet waits for it from here on.
    pub(crate) fn register(&self, start: NonNull<u8>, len: usize) -> io::Result<()> {
        let mut register = Register {
            start: start.as_ptr().addr() as u64,
            len: len as u64,
            mode: MODE_MISSING,
            ioctls: 0,
        };
        let (fd, request) = (self.0.as_raw_fd(), UFFDIO_REGISTER as libc::Ioctl);
        // SAFETY: this ioctl(2) reads and writes one `struct uffdio_register`; it changes no byte of the memory.
        call(|| unsafe { libc::ioctl(fd, request, &raw mut register) }).map(drop)
    }

    /// Takes note of moves of the memory, until it is told that they are over: mremap(2) waits for that.
    pub(crate) fn note_moves(&self, over: &AtomicBool) {
        while !over.load(Ordering::Relaxed) {
            let mut poll = libc::pollfd {
                fd: self.0.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: poll(2) reads and writes the one `struct pollfd` it is given; it wakes up to look at `over`.
            let _ = call(|| unsafe { libc::poll(&mut poll, 1, 10) });
            // `struct uffd_msg`. A fault is no news: every page is given in its turn.
            let mut message = [0_u8; 32];
            let (to, len) = (message.as_mut_ptr().cast(), message.len());
            // SAFETY: read(2) writes at most so many bytes; it does not wait.
            let _ = call(|| unsafe { libc::read(self.0.as_raw_fd(), to, len) });
        }
    }

    /// Gives the pages from `to` on: whole pages that were never there. Whoever waits for one goes on.
    ///
    /// # Safety
    /// The pages are the caller's, and those who wait for them expect these bytes.
    pub(crate) unsafe fn give(&self, to: NonNull<u8>, pages: &[u8]) -> io::Result<()> {
        let mut given = 0;
        while given < pages.len() {
            let rest = &pages[given..];
            let mut copy = Copy {
                to: (to.as_ptr().addr() + given) as u64,
                from: rest.as_ptr().addr() as u64,
                len: rest.len() as u64,
                mode: 0,
                copied: 0,
            };
            let (fd, request) = (self.0.as_raw_fd(), UFFDIO_COPY as libc::Ioctl);
            // SAFETY: this ioctl(2) reads `rest` and fills pages that were not there; see above.
            match call(|| unsafe { libc::ioctl(fd, request, &raw mut copy) }) {
                Ok(_) => given += rest.len(),
                // A part of them, while the process forks or maps.
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {
                    given += usize::try_from(copy.copied).unwrap_or(0);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
