//! System calls that write to files: write, pwrite, ftruncate; without SIGPIPE and SIGXFSZ.

use super::descriptor::{Wait, poll};
use super::signal_mask::{SignalMask, without_sigxfsz};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

/// ftruncate(2).
pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    without_sigxfsz(|| file.set_len(len))
}

/// pwrite(2), until all bytes are written.
pub(crate) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    without_sigxfsz(|| file.write_all_at(bytes, offset))
}

/// write(2) at the descriptor's offset, until all bytes are written; waits where the descriptor is in non-blocking mode.
/// A pipe without a reader is `EPIPE` and a file over its limit `EFBIG`, never a signal.
pub(crate) fn write_all(mut to: &File, bytes: &[u8]) -> io::Result<()> {
    let _mask = SignalMask::block(&[libc::SIGPIPE, libc::SIGXFSZ]);
    let mut rest = bytes;
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => rest = &rest[n..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                poll(to.as_fd(), libc::POLLOUT, Wait::Forever)?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
