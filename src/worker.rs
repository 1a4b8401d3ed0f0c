//! Threads that work for one call or one value, and are joined at its end.
#![allow(unsafe_code)]

use crate::process::Process;
use crate::sys::thread;
use std::ffi::{CStr, c_void};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};

/// A thread that is joined when this is dropped.
#[derive(Debug)]
struct Joined {
    id: thread::Id,
    process: Process,
}

impl Joined {
    /// Starts a thread, or returns an error if none can be created: `std::thread` maps a stack for signal handlers in the
    /// new thread, and ends the process where there is no room for that (`RLIMIT_AS`, vm.max_map_count).
    ///
    /// # Safety
    /// `main` may be called with `argument`, until this is dropped.
    unsafe fn start(
        main: extern "C" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
    ) -> io::Result<Self> {
        // Before the thread: a child that is forked from here on is known.
        let process = Process::current();
        // SAFETY: the caller's promise.
        let id = unsafe { thread::start(main, argument) }?;
        Ok(Joined { id, process })
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        // A forked child does not have it.
        if self.process.is_current() {
            // SAFETY: a thread of this process, joined here only.
            unsafe { thread::join(self.id) };
        }
    }
}

/// A thread and its state. It is joined when this is dropped. The thread itself allocates and frees nothing.
#[derive(Debug)]
pub(crate) struct Worker<S> {
    /// `None` while this is dropped.
    thread: Option<Joined>,
    /// Owned by this value, and read by the thread.
    job: NonNull<Job<S>>,
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
        // SAFETY: `worker_main` takes such a job, which is freed after the thread has ended.
        let thread = unsafe { Joined::start(worker_main::<S>, job.as_ptr().cast()) };
        let thread = thread.inspect_err(|_| {
            // SAFETY: made above, and no thread has it.
            drop(unsafe { Box::from_raw(job.as_ptr()) });
        })?;
        let thread = Some(thread);
        Ok(Worker { thread, job })
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
        self.thread = None;
        // SAFETY: made by `Box::leak`, and the thread has ended.
        drop(unsafe { Box::from_raw(self.job.as_ptr()) });
    }
}

extern "C" fn worker_main<S>(job: *mut c_void) -> *mut c_void {
    // SAFETY: `Worker` frees it after this thread has ended, and shares it by `&` only.
    let job = unsafe { &*job.cast::<Job<S>>() };
    thread::set_name(job.name);
    (job.run)(&job.state);
    ptr::null_mut()
}

/// Runs `caller`, whose argument is true if a thread runs `worker` at the same time, and returns when both have ended. The
/// result of `worker` is `None` if it was not run, and `Err` if it panicked.
pub(crate) fn run_alongside<T, R: Send, W: FnOnce() -> R + Send>(
    name: &'static CStr,
    worker: W,
    caller: impl FnOnce(bool) -> T,
) -> (T, Option<std::thread::Result<R>>) {
    struct Call<W, R> {
        name: &'static CStr,
        worker: Option<W>,
        returned: Option<std::thread::Result<R>>,
    }
    extern "C" fn main<R, W: FnOnce() -> R>(call: *mut c_void) -> *mut c_void {
        // SAFETY: the thread alone uses it until it is joined.
        let call = unsafe { &mut *call.cast::<Call<W, R>>() };
        thread::set_name(call.name);
        let worker = call.worker.take();
        call.returned = worker.map(|worker| catch_unwind(AssertUnwindSafe(worker)));
        ptr::null_mut()
    }
    let mut call = Call {
        name,
        worker: Some(worker),
        returned: None,
    };
    // SAFETY: `main` takes such a call, which is not used here before the thread is joined, also if `caller` panics.
    let thread = unsafe { Joined::start(main::<R, W>, (&raw mut call).cast()) };
    let thread = thread.ok();
    let value = caller(thread.is_some());
    drop(thread);
    (value, call.returned)
}
