//! mlock(2) by address, for pages that may lie in the heap.

use std::io;
use std::sync::{Mutex, PoisonError};

/// What a system call returned.
pub(crate) fn checked(returned: i32) -> io::Result<()> {
    if returned == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A lock that is a state: taken twice it is taken once, and it ends with its owner.
#[derive(Debug)]
pub(crate) struct LockState<T>(Mutex<Option<T>>);

impl<T> LockState<T> {
    pub(crate) const fn new() -> Self {
        LockState(Mutex::new(None))
    }

    /// Calls `lock` unless it is locked.
    pub(crate) fn begin(&self, lock: impl FnOnce() -> io::Result<T>) -> io::Result<()> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_none() {
            *state = Some(lock()?);
        }
        Ok(())
    }

    /// Ends the lock; whether there was one.
    pub(crate) fn end(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.take().is_some()
    }
}

/// Pages that are kept in RAM. A page of the heap that two small maps share is unlocked with the first of them.
#[derive(Debug)]
pub(crate) struct AddressLock {
    start: usize,
    len: usize,
}

impl AddressLock {
    pub(crate) fn new(bytes: &[u8]) -> io::Result<Self> {
        AddressLock::of(bytes.as_ptr(), bytes.len())
    }

    pub(crate) fn of(start: *const u8, len: usize) -> io::Result<Self> {
        // SAFETY: mlock(2) changes no byte.
        checked(unsafe { libc::mlock(start.cast(), len) })?;
        let start = start.addr();
        Ok(AddressLock { start, len })
    }
}

impl Drop for AddressLock {
    fn drop(&mut self) {
        // SAFETY: munlock(2) changes no byte. Refused, the pages stay locked.
        unsafe { libc::munlock(std::ptr::without_provenance(self.start), self.len) };
    }
}
