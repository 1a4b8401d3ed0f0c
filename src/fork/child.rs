//! Children that were forked, and how they ended.

use crate::error::{Error, Result};
use crate::process::Process;
use crate::sys::process;
use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The exit code of a child that panicked; it is that of a Rust program whose main thread did.
pub(super) const PANIC_EXIT_CODE: i32 = 101;

/// A child that was spawned, see [`Scope::spawn`](super::Scope::spawn). Dropping it leaves the waiting to the
/// [`scope`](super::scope).
///
/// # Examples
/// ```
/// stillmap::fork::scope(|s| {
///     let child = s.spawn(|| std::process::exit(3))?;
///     assert_eq!(child.wait()?.code(), Some(3));
///     Ok::<(), stillmap::Error>(())
/// })??;
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Child<'scope> {
    children: &'scope Children,
    index: usize,
    id: u32,
}

impl Child<'_> {
    /// The process id.
    ///
    /// # Examples
    /// ```
    /// stillmap::fork::scope(|s| {
    ///     let child = s.spawn(|| ())?;
    ///     assert_ne!(child.id(), std::process::id());
    ///     Ok::<(), stillmap::Error>(())
    /// })??;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits until it is gone, and returns how it ended; the [`scope`](super::scope) then does not count it as failed.
    ///
    /// # Errors
    /// [`Error::Os`] with `waitid` and `ECHILD` if the status is unknown, see [`scope`](super::scope);
    /// [`Error::WrongProcess`] in another child.
    ///
    /// # Examples
    /// ```
    /// stillmap::fork::scope(|s| {
    ///     let child = s.spawn(|| panic!("a child may fail"))?;
    ///     assert_eq!(child.wait()?.code(), Some(101));
    ///     Ok::<(), stillmap::Error>(())
    /// })??; // and the scope returns Ok
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn wait(self) -> Result<ExitStatus> {
        self.children.check_process()?;
        match self.children.remove(self.index) {
            Some(running) => running.wait(),
            None => Err(status_unknown()),
        }
    }
}

impl fmt::Debug for Child<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("id", &self.id).finish()
    }
}

/// The children of a scope that were not reaped yet.
pub(super) struct Children {
    /// The process whose children they are: a forked child has a copy of this.
    process: Process,
    running: RefCell<Vec<Option<Running>>>,
}

impl Children {
    pub(super) fn new() -> Self {
        Children {
            process: Process::current(),
            running: RefCell::new(Vec::new()),
        }
    }

    pub(super) fn check_process(&self) -> Result<()> {
        if self.process.is_current() {
            Ok(())
        } else {
            Err(Error::wrong_process(None))
        }
    }

    pub(super) fn add(&self, child: Running) -> Child<'_> {
        let mut running = self.running.borrow_mut();
        let id = child.pid.unsigned_abs();
        running.push(Some(child));
        Child {
            children: self,
            index: running.len() - 1,
            id,
        }
    }

    fn remove(&self, index: usize) -> Option<Running> {
        let mut running = self.running.borrow_mut();
        let child = running.get_mut(index)?.take();
        // Drop trailing empty slots.
        while running.last().is_some_and(Option::is_none) {
            running.pop();
        }
        child
    }

    /// Waits for those that were not waited for; the error of the first that failed.
    pub(super) fn wait_for_all(&self) -> Option<Error> {
        let mut failed = None;
        // In the order in which they were spawned.
        for child in self.running.take().into_iter().flatten() {
            let error = match child.wait() {
                Ok(status) if status.success() => continue,
                Ok(status) => Error::child_failed(status),
                Err(error) => error,
            };
            failed.get_or_insert(error);
        }
        failed
    }
}

/// A child that runs, or ran and is not reaped.
pub(super) struct Running {
    pid: i32,
    /// Refers to it even if other code reaps it and its number is used again (Linux 5.3).
    pidfd: Option<OwnedFd>,
    /// The child, and every process that it forks, holds the other end until its memory is gone: Linux gives the memory
    /// back before it closes descriptors. The child writes its exit code to it before it exits.
    status_pipe: OwnedFd,
}

impl Running {
    /// For a child that was forked just now.
    pub(super) fn new(pid: i32, status_pipe: OwnedFd) -> Self {
        Running {
            pid,
            pidfd: process::pidfd_open(pid).ok(),
            status_pipe,
        }
    }

    fn wait(self) -> Result<ExitStatus> {
        let mut status = Vec::new();
        // Ends when no process holds the other end.
        let _ = File::from(self.status_pipe).read_to_end(&mut status);
        let pidfd = self.pidfd.as_ref().map(AsFd::as_fd);
        match process::wait(self.pid, pidfd) {
            // Other code reaped it, or SIGCHLD is ignored.
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => pidfd
                .and_then(process::status_from_pidfd)
                .or_else(|| {
                    let code = i32::from_ne_bytes(status.try_into().ok()?);
                    Some(ExitStatus::from_raw(code << 8))
                })
                .ok_or_else(status_unknown),
            other => other.map_err(|e| Error::os("waitid", None, e)),
        }
    }
}

fn status_unknown() -> Error {
    Error::os("waitid", None, io::Error::from_raw_os_error(libc::ECHILD))
}
