//! Gives the file of a draft its name.
//!
//! linkat(2) does not replace, so replacing a file takes two steps, and a temporary name exists between them. A process
//! that is killed there would leave it behind. So a child process does both steps (`sys/linux/vfork.rs`): a SIGKILL for this
//! process, its process group or its terminal does not reach it.

use super::target::TargetName;
use super::temp_file::temp_name;
use crate::error::{Error, Result};
use crate::sys::{descriptor, dir, vfork};
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;

/// Why an unnamed file did not get its name.
pub(super) struct NotNamed {
    pub(super) error: Error,
    /// It had a name for a moment: linkat(2) accepts an unnamed file once only.
    pub(super) was_linked: bool,
}

/// Gives an unnamed file its name; what has the name is replaced, unless `create_new`.
pub(super) fn link_into_place(
    fd: BorrowedFd<'_>,
    target: &TargetName,
    create_new: bool,
) -> Result<(), NotNamed> {
    let not_linked = |operation, source| NotNamed {
        error: target.error(operation, source),
        was_linked: false,
    };
    let not_replaced = |operation, errno, was_linked| {
        Err(NotNamed {
            error: target.replace_error(operation, io::Error::from_raw_os_error(errno)),
            was_linked,
        })
    };
    let path = dir::proc_path(fd);
    match link(&path, fd, target.dir(), &target.name.name) {
        Ok(()) => return Ok(()),
        Err(e) if !create_new && e.raw_os_error() == Some(libc::EEXIST) => {}
        Err(e) => return Err(not_linked("linkat", e)),
    }
    if dir::attributes(target.dir()) & libc::STATX_ATTR_APPEND as u64 != 0 {
        // The temporary name could neither be renamed nor removed.
        return not_replaced("renameat", libc::EPERM, false);
    }
    let temp = temp_name(&target.name.name).map_err(|e| not_linked("getrandom", e))?;
    let replacement = Replacement {
        fd,
        proc_path: &path,
        dir: target.dir(),
        temp: &temp,
        target: &target.name.name,
        progress: Cell::new(PublishProgress::Start),
    };
    vfork::run(&|| replacement.advance(false));
    // No process could be made, or it was killed, or it may not link the file and this process may (without /proc,
    // linkat asks for the credentials that opened the file).
    match replacement.progress.get() {
        PublishProgress::Start | PublishProgress::Linked => replacement.advance(true),
        PublishProgress::NotLinked(libc::ENOENT) => {
            replacement.progress.set(PublishProgress::Start);
            replacement.advance(true);
        }
        _ => {}
    }
    match replacement.progress.get() {
        PublishProgress::Done => Ok(()),
        PublishProgress::NotLinked(errno) => not_replaced("linkat", errno, false),
        PublishProgress::NotRenamed(errno) => not_replaced("renameat", errno, true),
        // `advance` has ended in one of the others.
        PublishProgress::Start | PublishProgress::Linked => {
            not_replaced("linkat", libc::EIO, false)
        }
    }
}

/// Through /proc; without it, through the descriptor.
fn link(path: &CStr, fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match dir::link(path, dir, name) {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => dir::link_fd(fd, dir, name),
        other => other,
    }
}

/// ```text
///   Start --linkat--> Linked --renameat--> Done
///     |                  |
///     +-> NotLinked      +-> NotRenamed, the temporary name removed
/// ```
#[derive(Clone, Copy, Debug)]
enum PublishProgress {
    Start,
    /// The temporary name exists.
    Linked,
    Done,
    /// With the errno.
    NotLinked(i32),
    NotRenamed(i32),
}

/// Replaces `target` by an unnamed file, through the name `temp`. It makes system calls and nothing else: it
/// runs in a child that has our memory.
struct Replacement<'a> {
    fd: BorrowedFd<'a>,
    proc_path: &'a CString,
    dir: BorrowedFd<'a>,
    temp: &'a CStr,
    target: &'a CStr,
    progress: Cell<PublishProgress>,
}

impl Replacement<'_> {
    /// `again`: the child may have done a part of it already.
    fn advance(&self, again: bool) {
        if matches!(self.progress.get(), PublishProgress::Start) {
            match link(self.proc_path, self.fd, self.dir, self.temp) {
                // The child had linked it. Nothing else has this name.
                Err(e) if again && errno(&e) == libc::EEXIST => {}
                Err(e) => return self.progress.set(PublishProgress::NotLinked(errno(&e))),
                Ok(()) => {}
            }
            self.progress.set(PublishProgress::Linked);
        }
        self.progress
            .set(match dir::rename(self.dir, self.temp, self.target) {
                Ok(()) => PublishProgress::Done,
                // The child had renamed it.
                Err(e) if again && errno(&e) == libc::ENOENT => PublishProgress::Done,
                Err(e) => {
                    let _ = dir::unlink(self.dir, self.temp);
                    PublishProgress::NotRenamed(errno(&e))
                }
            });
        if again {
            // rename(2) of two links to one file does nothing: if the child had done everything before, in a copy of
            // our memory, the temporary name is still there.
            let _ = dir::unlink(self.dir, self.temp);
        }
    }
}

fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// Renames a hidden file to its target.
pub(super) fn rename_into_place(from: &CStr, target: &TargetName, create_new: bool) -> Result<()> {
    let (dir, name) = (target.dir(), target.name.name.as_c_str());
    if create_new {
        return rename_new(dir, from, name).map_err(|e| target.error("renameat2", e));
    }
    dir::rename(dir, from, name).map_err(|e| target.replace_error("renameat", e))
}

/// `EEXIST` if `to` exists: by renameat2(2), or else by a second link, or else by an empty file that is made with
/// `O_EXCL` and replaced.
fn rename_new(dir: BorrowedFd<'_>, from: &CStr, to: &CStr) -> io::Result<()> {
    match dir::rename_noreplace(dir, from, to) {
        Err(e) if is_unsupported(&e) => {}
        other => return other,
    }
    match dir::link_at(dir, from, to) {
        Err(e) if is_unsupported(&e) => {}
        other => return other.and_then(|()| dir::unlink(dir, from)),
    }
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_NOFOLLOW;
    drop(dir::open_at(dir, to, flags, 0o600)?);
    dir::rename(dir, from, to).inspect_err(|_| {
        let _ = dir::unlink(dir, to);
    })
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP)
    )
}

/// Waits until no descriptor of an executable file is open for writing: execve(2) would fail with `ETXTBSY`. Ours is
/// closed, but a child that another thread has just forked has it until it executes its program.
pub(super) fn wait_for_writers(fd: BorrowedFd<'_>) {
    for _ in 0..WRITER_POLLS {
        if !descriptor::has_writer(fd) {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Milliseconds to wait for writers. A child of posix_spawn(3) executes its program within a few milliseconds, or as soon as it
/// gets a processor; one that never does must not block a commit.
const WRITER_POLLS: u32 = 5000;
