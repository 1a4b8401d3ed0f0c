//! Starts the two threads that serve the leases of the process, with the first lease.
//!
//! Neither thread takes a lock or allocates after its start: the writer that a lease blocks may be any thread of this
//! process, with any locks held; and the process may fork at any time, with any allocator.

use super::copier::{self, COPIER};
use super::copy;
use super::monitor::{self, WATCHER};
use crate::sync;
use crate::sys::{futex, lease, thread};
use std::ffi::{CStr, c_void};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

/// Starts the threads that do not run. Called by one thread at a time.
pub(super) fn start() -> io::Result<()> {
    monitor::prepare()?;
    copy::prepare();
    start_threads()
}

/// Like [`start`], after its preparations; does not use the allocator. Both threads run when it returns.
pub(super) fn start_threads() -> io::Result<()> {
    if WATCHER.load(Ordering::Acquire) == 0 {
        thread::start_detached(watcher_main)?;
        wait_for(&WATCHER);
    }
    if COPIER.load(Ordering::Acquire) == 0 {
        thread::start_detached(copier_main)?;
        wait_for(&COPIER);
    }
    Ok(())
}

extern "C" fn watcher_main(_: *mut c_void) -> *mut c_void {
    begin(c"stillmap-lease", &WATCHER);
    monitor::watch()
}

extern "C" fn copier_main(_: *mut c_void) -> *mut c_void {
    begin(c"stillmap-copy", &COPIER);
    copier::copy_broken()
}

/// Prepares the calling thread, and stores its id: it runs.
fn begin(name: &CStr, id: &AtomicU32) {
    lease::block_signals();
    sync::forbid_locks();
    thread::set_name(name);
    thread::schedule_normally();
    id.store(thread::id().unsigned_abs(), Ordering::Release);
    futex::wake_all(id);
}

fn wait_for(thread: &AtomicU32) {
    while thread.load(Ordering::Acquire) == 0 {
        futex::wait(thread, 0);
    }
}

/// The ids of the threads that run.
pub(crate) fn ids() -> Vec<i32> {
    let ids = [&WATCHER, &COPIER].map(|thread| thread.load(Ordering::Acquire) as i32);
    ids.into_iter().filter(|&id| id != 0).collect()
}
