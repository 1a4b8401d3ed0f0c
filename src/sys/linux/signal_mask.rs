//! The signal mask of a thread: pthread_sigmask(3).

use super::limits;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// Runs a call that may make a file longer. Exceeding `RLIMIT_FSIZE` fails with `EFBIG` and also raises SIGXFSZ; the
/// signal is suppressed. Without a limit there is nothing to suppress.
pub(super) fn without_sigxfsz<T>(lengthen: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let may_raise = limits::file_size() != u64::MAX;
    let _mask = may_raise.then(|| SignalMask::block(&[libc::SIGXFSZ]));
    lengthen()
}

/// Signals that are blocked in this thread until it is dropped.
pub(super) struct SignalMask {
    before: libc::sigset_t,
    /// Signals that our own system calls may raise. They are consumed on drop, unless they were pending before.
    consume_on_drop: libc::sigset_t,
}

impl SignalMask {
    /// Blocks all signals, and consumes `raised` on drop.
    pub(super) fn block_all(raised: &[i32]) -> Self {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigfillset(3) writes one set to the pointer, which has room for it.
        unsafe { libc::sigfillset(set.as_mut_ptr()) };
        // SAFETY: filled in above.
        SignalMask::set(&unsafe { set.assume_init() }, raised)
    }

    /// Blocks and consumes `raised`.
    pub(super) fn block(raised: &[i32]) -> Self {
        SignalMask::set(&set_of(raised.iter().copied()), raised)
    }

    fn set(set: &libc::sigset_t, raised: &[i32]) -> Self {
        let mut before = MaybeUninit::zeroed();
        // SAFETY: pthread_sigmask(3) reads one set and writes the other; both pointers are valid.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set, before.as_mut_ptr()) };
        let mut pending = MaybeUninit::zeroed();
        // SAFETY: sigpending(2) writes one set to the pointer, which has room for it.
        unsafe { libc::sigpending(pending.as_mut_ptr()) };
        // SAFETY: filled in above; zeroed is the empty set.
        let is_pending = |signal| unsafe { libc::sigismember(pending.as_ptr(), signal) == 1 };
        SignalMask {
            // SAFETY: filled in above; it cannot fail for SIG_BLOCK, and zeroed would be the empty set.
            before: unsafe { before.assume_init() },
            consume_on_drop: set_of(raised.iter().copied().filter(|&signal| !is_pending(signal))),
        }
    }
}

fn set_of(signals: impl Iterator<Item = i32>) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) writes one set to the pointer, which has room for it.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was filled in above.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: filled in above.
    unsafe { set.assume_init() }
}

impl Drop for SignalMask {
    fn drop(&mut self) {
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: sigtimedwait(2) reads a set and a time; it does not wait, and writes nothing.
        while unsafe { libc::sigtimedwait(&self.consume_on_drop, ptr::null_mut(), &now) } > 0 {}
        // SAFETY: pthread_sigmask(3) reads one set, filled in by `set`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}
