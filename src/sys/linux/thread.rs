//! System calls on threads. Those of this crate have every signal blocked, so that no handler of the program runs on them.

use super::signal_mask::SignalMask;
use std::ffi::{CStr, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// A thread that was started, pthread_self(3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Id(libc::pthread_t);

// SAFETY: any thread may join or detach another; where the id is a pointer, only the C library follows it.
unsafe impl Send for Id {}
// SAFETY: as above.
unsafe impl Sync for Id {}

/// Stack of a thread, in bytes: the default of `std`.
const STACK: usize = 2 << 20;

/// Starts a detached thread that runs a function without arguments. Allocates nothing by way of Rust.
pub(crate) fn start_detached(main: extern "C" fn(*mut c_void) -> *mut c_void) -> io::Result<()> {
    let id = without_signals(|| create(main, ptr::null_mut()))?;
    // SAFETY: the thread never ends, so its id is valid; it is neither joined nor detached before.
    unsafe { libc::pthread_detach(id) };
    Ok(())
}

/// What the calling thread has used so far: `RUSAGE_THREAD` of getrusage(2), Linux 2.6.26.
pub(super) fn usage() -> libc::rusage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage(2) writes one `struct rusage`. It cannot fail for this thread.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    // SAFETY: zeroed is a valid `struct rusage`.
    unsafe { usage.assume_init() }
}

/// How often the calling thread was blocked so far: by a disk, a lock, or another thread.
pub(crate) fn waits() -> u64 {
    u64::try_from(usage().ru_nvcsw).unwrap_or(0)
}

/// Names the calling thread, prctl(2).
pub(crate) fn set_name(name: &CStr) {
    // SAFETY: PR_SET_NAME of prctl(2) reads the string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Gives the calling thread the ordinary scheduling policy, sched(7), instead of the one inherited from the thread that
/// started it: under `SCHED_FIFO` it might wait for ever for a thread on the same processor that never blocks.
pub(crate) fn schedule_normally() {
    // SAFETY: all zeros are a `struct sched_param`; some C libraries have more fields than one.
    let priority: libc::sched_param = unsafe { std::mem::zeroed() };
    // By number: musl's function always fails.
    // SAFETY: reads one struct. If it is refused, the policy stays.
    unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            0,
            libc::SCHED_OTHER,
            &raw const priority,
        )
    };
}

/// Starts a thread that calls `main` with `argument`. To be joined.
///
/// # Safety
/// `main` may be called with `argument`, for as long as the thread runs.
pub(crate) unsafe fn start(
    main: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> io::Result<Id> {
    without_signals(|| create(main, argument)).map(Id)
}

/// pthread_join(3).
///
/// # Safety
/// The thread is one of this process, neither joined nor detached before.
pub(crate) unsafe fn join(thread: Id) {
    // SAFETY: the caller's promise; it writes no value.
    unsafe { libc::pthread_join(thread.0, ptr::null_mut()) };
}

/// pthread_create(3) of a thread that calls `main` with `argument`, which must be valid for it.
fn create(
    main: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> io::Result<libc::pthread_t> {
    let mut attributes = MaybeUninit::uninit();
    let mut id = MaybeUninit::uninit();
    // SAFETY: writes the one struct.
    checked(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
    // SAFETY: initialised above. Refused, it is the size that the program has set.
    let _ = unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK) };
    let (id_at, attributes_at) = (id.as_mut_ptr(), attributes.as_ptr());
    // SAFETY: the attributes are initialised, and `main` may be called with `argument`.
    let created = unsafe { libc::pthread_create(id_at, attributes_at, main, argument) };
    // SAFETY: initialised above, and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    checked(created)?;
    // SAFETY: the call filled it.
    Ok(unsafe { id.assume_init() })
}

/// Converts the result of pthreads(7): an error number, or 0.
fn checked(returned: i32) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// Runs `f` with every signal blocked in the calling thread; a thread that it starts inherits that.
pub(crate) fn without_signals<T>(f: impl FnOnce() -> T) -> T {
    let _mask = SignalMask::block_all(&[]);
    f()
}

/// The calling thread's id, gettid(2).
pub(crate) fn id() -> i32 {
    // SAFETY: gettid(2) touches no memory of ours and cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}
