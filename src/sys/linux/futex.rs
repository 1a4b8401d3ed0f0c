//! futex(2): threads that wait for a number to change, without a lock.

use std::ptr;
use std::sync::atomic::AtomicU32;

/// Blocks while `word` has this value, until [`wake_all`]. May return early.
pub(crate) fn wait(word: &AtomicU32, value: u32) {
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    let forever = ptr::null::<libc::timespec>();
    // SAFETY: FUTEX_WAIT reads the word; a null timeout is allowed.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, forever) };
}

/// Wakes every thread that waits for `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: FUTEX_WAKE looks for waiters at the address, and reads nothing.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, i32::MAX) };
}
