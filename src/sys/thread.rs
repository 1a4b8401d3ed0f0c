//! Threads of our own. They have every signal blocked, so that none of the program's is ever handled on them.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

/// Starts one that outlives its starter.
pub(crate) fn start(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    without_signals(|| Builder::new().name(name.to_string()).spawn(run))
}

/// Starts one that may borrow.
pub(crate) fn start_scoped<'s, T: Send + 's>(
    scope: &'s Scope<'s, '_>,
    name: &str,
    run: impl FnOnce() -> T + Send + 's,
) -> io::Result<ScopedJoinHandle<'s, T>> {
    without_signals(|| {
        Builder::new()
            .name(name.to_string())
            .spawn_scoped(scope, run)
    })
}

/// Runs `f` with every signal blocked in the calling thread; a thread that it starts begins like that, too.
pub(crate) fn without_signals<T>(f: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigfillset(3) initialises the set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: initialised above.
    let before = set_mask(unsafe { all.assume_init_ref() });
    let value = f();
    set_mask(&before);
    value
}

/// Sets which signals the calling thread blocks, and gives which they were.
fn set_mask(set: &libc::sigset_t) -> libc::sigset_t {
    let mut old = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: pthread_sigmask(3) reads one set and writes one.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set, old.as_mut_ptr()) };
    // SAFETY: zeroed is a valid set already, and the call filled it.
    unsafe { old.assume_init() }
}

/// The calling thread's id, gettid(2).
pub(crate) fn id() -> i32 {
    // SAFETY: gettid(2) touches no memory of ours and cannot fail.
    unsafe { libc::gettid() }
}
