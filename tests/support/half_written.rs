//! A write(2) that does not end yet.

use super::kernel::{is_blocked, thread_id};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

/// A write(2) of which one half is done, until this is dropped: a userfaultfd keeps the rest of its bytes.
pub struct HalfWritten {
    pub begun: Instant,
    missing: Option<OwnedFd>,
    writer: Option<JoinHandle<()>>,
}

impl HalfWritten {
    /// All bytes of a file of `len` bytes become 1, then the first half becomes 2; the second becomes 0 in the end. `None`, after saying why, where that is not allowed.
    pub fn begin(path: &Path, len: usize) -> Option<Self> {
        const API: libc::Ioctl = libc::_IOWR::<[u64; 3]>(0xaa, 0x3f);
        const REGISTER: libc::Ioctl = libc::_IOWR::<[u64; 4]>(0xaa, 0);
        // SAFETY: takes an integer.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        if fd < 0 {
            super::skip("a userfaultfd(2) for system calls is refused");
            return None;
        }
        // SAFETY: the kernel just returned it.
        let missing = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        let (half, access) = (len / 2, libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory, which is never unmapped.
        let bytes = unsafe { libc::mmap(null_mut(), len, access, flags, -1, 0) };
        assert_ne!(bytes, libc::MAP_FAILED);
        // SAFETY: the first half of it.
        unsafe { bytes.cast::<u8>().write_bytes(2, half) };
        let start = bytes.addr();
        let mut api = [0xaa_u64, 0, 0];
        let mut range = [(start + half) as u64, half as u64, 1, 0];
        // SAFETY: a `struct uffdio_api`.
        let known = unsafe { libc::ioctl(fd as i32, API, &mut api) };
        // SAFETY: a `struct uffdio_register`.
        let registered = unsafe { libc::ioctl(fd as i32, REGISTER, &mut range) };
        assert_eq!(
            (known, registered),
            (0, 0),
            "{}",
            std::io::Error::last_os_error()
        );
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(&vec![1; len], 0).unwrap();
        let begun = Instant::now();
        let writer = std::thread::spawn(move || {
            let bytes = std::ptr::with_exposed_provenance(start);
            // SAFETY: mapped above.
            let written = unsafe { libc::pwrite(file.as_raw_fd(), bytes, len, 0) };
            assert_eq!(written, len as isize);
        });
        let mut fault = [0_u8; 32];
        // SAFETY: a `struct uffd_msg`.
        let read = unsafe { libc::read(fd as i32, fault.as_mut_ptr().cast(), fault.len()) };
        assert_eq!(read, fault.len() as isize);
        bytes.expose_provenance();
        Some(HalfWritten {
            begun,
            missing: Some(missing),
            writer: Some(writer),
        })
    }

    /// Calls `read`, and lets the write end once that returns or waits for it.
    pub fn meanwhile<T: Send>(self, read: impl FnOnce() -> T + Send) -> T {
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|threads| {
            let reader = threads.spawn(move || {
                sender.send(thread_id()).unwrap();
                read()
            });
            let id = receiver.recv().unwrap();
            while !reader.is_finished() && !is_blocked(id) {
                std::thread::yield_now();
            }
            drop(self);
            reader.join().unwrap()
        })
    }

    /// True if these bytes of the file are from before the write or from after it.
    pub fn is_whole(bytes: &[u8]) -> bool {
        let (first, second) = bytes.split_at(bytes.len() / 2);
        first[0] == 1 && second[0] == 1 || first[0] == 2 && second[0] == 0
    }
}

impl Drop for HalfWritten {
    fn drop(&mut self) {
        self.missing = None;
        self.writer.take().map(JoinHandle::join);
    }
}
