//! Threads of this crate. They have every signal blocked, so that no handler of the program runs on them.

use std::ffi::{CStr, c_void};
use std::io;
use std::mem::{self, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

/// In bytes, as threads of `std` have it.
const STACK: usize = 2 << 20;

type Run = Box<dyn FnOnce() + Send>;

/// A thread that may outlive the one that started it. It is detached if this is dropped before it is joined.
#[derive(Debug)]
pub(crate) struct Thread {
    id: Option<libc::pthread_t>,
    process: u32,
}

// SAFETY: any thread may join or detach another; where its id is a pointer, only the C library follows it.
unsafe impl Send for Thread {}

/// Starts one, or returns an error if no thread can be created: `std::thread` maps a stack for signal handlers in the
/// new thread, and ends the process where there is no room for that (`RLIMIT_AS`, vm.max_map_count).
pub(crate) fn start(
    name: &'static CStr,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<Thread> {
    let run: Run = Box::new(move || {
        // SAFETY: PR_SET_NAME of prctl(2) reads the string.
        unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
        run();
    });
    let run = Box::into_raw(Box::new(run));
    let id = without_signals(|| create(thread_main, run.cast())).inspect_err(|_| {
        // SAFETY: made above, and no thread has it.
        drop(unsafe { Box::from_raw(run) });
    })?;
    let (id, process) = (Some(id), std::process::id());
    Ok(Thread { id, process })
}

/// A thread and its state. It is joined when this is dropped. The thread itself allocates and frees nothing.
#[derive(Debug)]
pub(crate) struct Worker<S> {
    id: libc::pthread_t,
    /// Owned by this value, and read by the thread.
    job: NonNull<Job<S>>,
    process: u32,
}

#[derive(Debug)]
struct Job<S> {
    name: &'static CStr,
    state: S,
    run: fn(&S),
}

// SAFETY: any thread may join another; the job is shared by `&` only, and dropped by one thread.
unsafe impl<S: Send + Sync> Send for Worker<S> {}
// SAFETY: `&Worker` gives `&S` only.
unsafe impl<S: Send + Sync> Sync for Worker<S> {}

impl<S: Send + Sync + 'static> Worker<S> {
    /// Starts a thread that calls `run`, which must not panic.
    pub(crate) fn start(name: &'static CStr, state: S, run: fn(&S)) -> io::Result<Self> {
        let job = NonNull::from(Box::leak(Box::new(Job { name, state, run })));
        let id = without_signals(|| create(worker_main::<S>, job.as_ptr().cast()));
        let id = id.inspect_err(|_| {
            // SAFETY: made above, and no thread has it.
            drop(unsafe { Box::from_raw(job.as_ptr()) });
        })?;
        let process = std::process::id();
        Ok(Worker { id, job, process })
    }

    pub(crate) fn state(&self) -> &S {
        // SAFETY: valid until `self` is dropped, and nothing takes it by `&mut`.
        let job = unsafe { self.job.as_ref() };
        &job.state
    }
}

impl<S> Drop for Worker<S> {
    fn drop(&mut self) {
        // A forked child has a copy of the state, and no thread.
        if self.process == std::process::id() {
            // SAFETY: not joined or detached before; it writes no value.
            unsafe { libc::pthread_join(self.id, ptr::null_mut()) };
        }
        // SAFETY: made by `Box::leak`, and the thread has ended.
        drop(unsafe { Box::from_raw(self.job.as_ptr()) });
    }
}

extern "C" fn worker_main<S>(job: *mut c_void) -> *mut c_void {
    // SAFETY: `Worker` frees it after this thread has ended, and shares it by `&` only.
    let job = unsafe { &*job.cast::<Job<S>>() };
    // SAFETY: PR_SET_NAME of prctl(2) reads the string.
    unsafe { libc::prctl(libc::PR_SET_NAME, job.name.as_ptr()) };
    (job.run)(&job.state);
    ptr::null_mut()
}

/// Starts a detached thread that runs a function without arguments. Allocates nothing by way of Rust.
pub(crate) fn start_detached(run: extern "C" fn(*mut c_void) -> *mut c_void) -> io::Result<()> {
    let id = without_signals(|| create(run, ptr::null_mut()))?;
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

/// pthread_create(3) of a thread that calls `begin` with `run`, which is what `begin` takes.
fn create(
    begin: extern "C" fn(*mut c_void) -> *mut c_void,
    run: *mut c_void,
) -> io::Result<libc::pthread_t> {
    let mut attributes = MaybeUninit::uninit();
    let mut id = MaybeUninit::uninit();
    // SAFETY: writes the one struct.
    checked(unsafe { libc::pthread_attr_init(attributes.as_mut_ptr()) })?;
    // SAFETY: initialised above. Refused, it is the size that the program has set.
    let _ = unsafe { libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK) };
    // SAFETY: the attributes are initialised, and `begin` takes what `run` is.
    let created = unsafe { libc::pthread_create(id.as_mut_ptr(), attributes.as_ptr(), begin, run) };
    // SAFETY: initialised above, and not used again.
    unsafe { libc::pthread_attr_destroy(attributes.as_mut_ptr()) };
    checked(created)?;
    // SAFETY: the call filled it.
    Ok(unsafe { id.assume_init() })
}

extern "C" fn thread_main(run: *mut c_void) -> *mut c_void {
    // SAFETY: `start` made it, for this thread alone.
    let run = unsafe { Box::from_raw(run.cast::<Run>()) };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(*run)) {
        // The message was printed; dropping it may panic again.
        mem::forget(panic);
    }
    ptr::null_mut()
}

/// Converts the result of pthreads(7): an error number, or 0.
fn checked(returned: i32) -> io::Result<()> {
    match returned {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

impl Thread {
    /// Waits until it has ended.
    pub(crate) fn join(mut self) {
        // A forked child does not have it.
        let id = self
            .id
            .take()
            .filter(|_| self.process == std::process::id());
        if let Some(id) = id {
            // SAFETY: not joined or detached before; it writes no value.
            unsafe { libc::pthread_join(id, ptr::null_mut()) };
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // SAFETY: not joined or detached before.
            unsafe { libc::pthread_detach(id) };
        }
    }
}

/// Runs `caller`, whose argument is true if a thread runs `worker` at the same time, and returns when both have ended. The
/// result of `worker` is `None` if it was not run, and `Err` if it panicked.
pub(crate) fn run_alongside<T, R: Send>(
    name: &'static CStr,
    worker: impl FnOnce() -> R + Send,
    caller: impl FnOnce(bool) -> T,
) -> (T, Option<std::thread::Result<R>>) {
    /// Joins also if `caller` panics.
    struct JoinOnDrop(Option<Thread>);
    impl Drop for JoinOnDrop {
        fn drop(&mut self) {
            self.0.take().into_iter().for_each(Thread::join);
        }
    }
    let mut returned = None;
    let place = &mut returned;
    let run: Box<dyn FnOnce() + Send + '_> =
        Box::new(move || *place = Some(catch_unwind(AssertUnwindSafe(worker))));
    // SAFETY: only the lifetime changes. What the closure borrows outlives `thread`, which ends when that has run.
    let run: Run = unsafe { mem::transmute(run) };
    let thread = JoinOnDrop(start(name, run).ok());
    let value = caller(thread.0.is_some());
    drop(thread);
    (value, returned)
}

/// Runs `f` with every signal blocked in the calling thread; a thread that it starts inherits that.
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
    unsafe { libc::syscall(libc::SYS_gettid) as i32 }
}
