//! `fork::scope`: what children share, how they end, and that none is left behind.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod descriptors;
mod namespaces;
mod parts;
mod scope;
mod threads;

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use stillmap::{Error, fork};

/// Waits for a byte from the other end, or until every copy of it is closed.
fn wait_for(end: OwnedFd) {
    let _ = File::from(end).read(&mut [0]);
}

fn send(signal: i32, pid: u32) {
    // SAFETY: takes two numbers; the process is our own child, not reaped yet.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0);
}

/// True if there is no child, running or zombie.
fn is_childless() -> bool {
    // SAFETY: a null pointer asks for no status.
    let waited = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
    waited == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD)
}

/// The scope of one child that is not waited for by hand.
fn one(f: impl FnOnce()) -> Result<(), Error> {
    fork::scope(|s| s.spawn(f).map(drop).unwrap())
}

#[track_caller]
fn status(result: Result<(), Error>) -> ExitStatus {
    match result {
        Err(Error::ChildFailed { status, .. }) => status,
        other => panic!("{other:?}"),
    }
}
