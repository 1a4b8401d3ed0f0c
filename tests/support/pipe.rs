//! Pipes and other streams whose writers go on only when the reader has taken everything.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::thread::JoinHandle;

/// (read end, write end)
pub fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(libc::O_CLOEXEC)
}

/// (read end, write end)
pub fn pipe_of_files() -> (File, File) {
    let (reader, writer) = pipe();
    (reader.into(), writer.into())
}

pub fn pipe_with(flags: i32) -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: room for two numbers.
    let result = unsafe { libc::pipe2(ends.as_mut_ptr(), flags) };
    assert_eq!(result, 0, "pipe2: {}", std::io::Error::last_os_error());
    // SAFETY: both are new, and no other code has them.
    ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) }).into()
}

/// (master, slave)
pub fn terminal() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (mut master, mut slave) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: room for both numbers; name, settings and size may be null.
    let result = unsafe { libc::openpty(&mut master, &mut slave, null, null.cast(), null.cast()) };
    if result != 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: both are new, and no other code has them.
    Ok([master, slave]
        .map(|end| unsafe { OwnedFd::from_raw_fd(end) })
        .into())
}

/// Two ends of a socket that keeps messages apart (SOCK_SEQPACKET).
pub fn messages_socket() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two numbers.
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) };
    assert_eq!(result, 0, "socketpair: {}", std::io::Error::last_os_error());
    // SAFETY: both are new, and no other code has them.
    ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) }).into()
}

pub fn make_fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a test path");
    // SAFETY: a valid C string.
    let result = unsafe { libc::mkfifo(path.as_ptr(), 0o600) };
    assert_eq!(result, 0, "mkfifo: {}", std::io::Error::last_os_error());
}

/// Writes everything at once, as fast as the reader takes it; a reader that went away is no error.
pub fn feed(to: OwnedFd, bytes: Vec<u8>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let _ = File::from(to).write_all(&bytes);
    })
}

/// Writes every message with one call.
pub fn feed_messages(to: OwnedFd, messages: Vec<Vec<u8>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut to = File::from(to);
        for message in messages {
            assert_eq!(to.write(&message).unwrap(), message.len());
        }
    })
}

/// Writes one chunk at a time, each only when the one before was read: so every read is a short one.
/// Stops when the read end is closed.
pub fn feed_slowly(to: OwnedFd, chunks: Vec<Vec<u8>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut to = File::from(to);
        for chunk in chunks {
            if to.write_all(&chunk).is_err() || !wait_until_drained(&to) {
                return;
            }
        }
    })
}

/// False if the reader is gone. There is no event for "empty", hence the polling.
pub fn wait_until_drained(pipe: &impl AsRawFd) -> bool {
    let fd = pipe.as_raw_fd();
    loop {
        let mut unread: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int.
        let result = unsafe { libc::ioctl(fd, libc::FIONREAD, &mut unread) };
        assert_eq!(result, 0, "FIONREAD: {}", std::io::Error::last_os_error());
        if unread == 0 {
            return true;
        }
        let mut poll = libc::pollfd {
            fd,
            events: 0,
            revents: 0,
        };
        // SAFETY: one valid entry, no waiting.
        unsafe { libc::poll(&mut poll, 1, 0) };
        if poll.revents & (libc::POLLERR | libc::POLLHUP) != 0 {
            return false;
        }
        std::thread::yield_now();
    }
}
