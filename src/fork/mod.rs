//! Share memory with forked children, as [`std::thread::scope`] does with threads.
//!
//! [`scope`] forks children that run a closure each, in a copy of this process, and waits for all of them. What they
//! change in [`Shared`](crate::Shared) memory, or in a `&mut` part of an [`Anonymous::shared`](crate::Anonymous::shared)
//! mapping, is seen here; all else they change is theirs alone, a `&mut` part of private memory as well. One thing the
//! borrow checker cannot see: [below](#what-the-borrow-checker-does-not-see).
//!
//! ```text
//!   scope ----- spawn ----- spawn ----- end of the closure ----- all children are gone ----- scope returns
//!                 |           |                                          |
//!                 +-- child --|---------------------- _exit -------------+
//!                             +-- child ------------------------ _exit --+
//! ```
//!
//! A process can be forked safely only if it has no other threads: the child would have a copy of the memory as they
//! left it, locks held, and not the threads. So everything here refuses with
//! [`MultiThreaded`](crate::Error::MultiThreaded) where there are any; the thread by which this crate answers leases
//! does not count.
//!
//! # In a child
//! - It ends with `_exit`: no `atexit` handlers run, nothing of the parent's is dropped, and buffers of C or Rust are
//!   not flushed. Lines that were printed have been written.
//! - A panic prints its message and ends it with exit code 101.
//! - It is killed when the process that spawned it dies (`PR_SET_PDEATHSIG`).
//! - Descriptors are shared with the parent, offsets included. Close-on-exec ones stay open: it is no exec.
//! - Snapshots held by a lease are not there; see [`across_fork`](crate::SnapshotOptions::across_fork). Nor are the bytes
//!   of a [`Draft`](crate::Draft) or an [`Exclusive`](crate::Exclusive) of its parent. Touching them ends the child.
//! - It may open a scope of its own; the parent's is not its to use.
//!
//! # What the borrow checker does not see
//! **A `&mut` part of shared memory must not lie in a `Cell`, a `RefCell`, a lock, a static or a thread-local that a child
//! and anybody else can reach.** A child has a copy of every value, and the copies know nothing of each other: each side
//! can take the part out of its own copy, and a lock holds nobody back. Then two processes have a `&mut` to the same bytes,
//! which is undefined behaviour, and nothing refuses it:
//! ```no_run
//! let mut memory = stillmap::Anonymous::shared(8)?;
//! let slot = std::cell::Cell::new(Some(&mut memory[..]));
//! stillmap::fork::scope(|s| {
//!     s.spawn(|| slot.take().unwrap().fill(1))?; // the child's slot
//!     slot.take().unwrap().fill(2); // is not this one: both have all 8 bytes
//!     Ok::<(), stillmap::Error>(())
//! })??;
//! # Ok::<(), stillmap::Error>(())
//! ```
//! Of this crate, only [`Anonymous::shared`](crate::Anonymous::shared) is such memory; a mapping of your own or of another
//! crate may be, too. Safe are: the part itself, moved into the closure or borrowed by it (`&mut`), as in the examples of
//! [`scope`]; and [`Shared`](crate::Shared) memory, wherever it lies. Why no check can tell the two apart is in
//! [`docs::safety`](crate::docs::safety#forkscope-what-nothing-checks).

use crate::error::{Error, Result};
use crate::lease::monitor::{self, Still};
use crate::sys::process::{self, ChildId, Side};
use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::ExitStatus;

/// The exit code of a child that panicked; it is that of a Rust program whose main thread did.
const PANICKED: i32 = 101;

/// Runs `f`, which may [`spawn`](Scope::spawn) children that borrow from here, and returns when all of them are gone.
///
/// It never returns before that, also when `f` panics: then it waits, and the panic goes on. Processes that a child
/// forks hold the same memory, so they are waited for too, also if the child itself was killed. A stopped child is
/// waited for until somebody continues or kills it.
///
/// # Errors
/// - [`Error::MultiThreaded`] if the process has other threads, before `f` is run.
/// - [`Error::ChildFailed`] if a child that `f` did not [`wait`](Child::wait) for ended in any way but well: with the
///   status of the first such child. What `f` returned is dropped.
/// - [`Error::Os`] with `waitid` and `ECHILD` if nobody knows how it ended: the program ignores SIGCHLD or reaped it,
///   the kernel is older than 6.15, and the child neither returned nor panicked.
///
/// # Examples
/// Two children fill a half each:
/// ```
/// let mut memory = stillmap::Anonymous::shared(8)?;
/// let (left, right) = memory.split_at_mut(4);
/// stillmap::fork::scope(|s| {
///     s.spawn(|| left.fill(1))?;
///     s.spawn(|| right.fill(2))?;
///     Ok::<(), stillmap::Error>(())
/// })??;
/// assert_eq!(&memory[..], [1, 1, 1, 1, 2, 2, 2, 2]);
/// # Ok::<(), stillmap::Error>(())
/// ```
/// What a child borrowed is not ours before the scope ends:
/// ```compile_fail,E0499
/// let mut memory = stillmap::Anonymous::shared(8)?;
/// stillmap::fork::scope(|s| {
///     s.spawn(|| memory.fill(1))?;
///     memory.fill(2);
///     Ok::<(), stillmap::Error>(())
/// })??;
/// # Ok::<(), stillmap::Error>(())
/// ```
/// and a child borrows nothing that ends before the scope:
/// ```compile_fail,E0597
/// stillmap::fork::scope(|s| {
///     let mut memory = stillmap::Anonymous::shared(8)?;
///     let all = &mut memory[..];
///     s.spawn(move || all.fill(1))?;
///     Ok::<(), stillmap::Error>(())
/// })??;
/// # Ok::<(), stillmap::Error>(())
/// ```
/// What may be borrowed lives outside:
/// ```
/// let mut memory = stillmap::Anonymous::shared(8)?;
/// let all = &mut memory[..];
/// stillmap::fork::scope(|s| {
///     s.spawn(move || all.fill(1))?;
///     Ok::<(), stillmap::Error>(())
/// })??;
/// memory.fill(2);
/// # Ok::<(), stillmap::Error>(())
/// ```
///
/// Source: fork(2), waitid(2), pidfd_open(2), prctl(2).
pub fn scope<'env, F, T>(f: F) -> Result<T>
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    alone(&monitor::hold_still())?;
    let scope = Scope {
        children: Children {
            process: process::id(),
            running: RefCell::new(Vec::new()),
        },
        scope: PhantomData,
        env: PhantomData,
        one_thread: PhantomData,
    };
    let ended = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    let failed = scope.children.wait_for_all();
    match ended {
        Err(panic) => resume_unwind(panic),
        Ok(value) => failed.map_or(Ok(value), Err),
    }
}

/// Where children are spawned, see [`scope`]. It stays on its thread.
///
/// # Examples
/// ```
/// fn spawn_some<'scope>(s: &'scope stillmap::fork::Scope<'scope, '_>) -> stillmap::Result<()> {
///     for _ in 0..3 {
///         s.spawn(|| assert_eq!(1 + 1, 2))?;
///     }
///     Ok(())
/// }
/// stillmap::fork::scope(spawn_some)??;
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Scope<'scope, 'env: 'scope> {
    children: Children,
    /// Invariant in both, as in `std::thread::Scope`: else `'scope` could be shortened to end before the children.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
    /// Neither `Send` nor `Sync`.
    one_thread: PhantomData<*mut ()>,
}

/// A child that was spawned, see [`Scope::spawn`]. Dropping it leaves the waiting to the [`scope`].
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
    place: usize,
    id: u32,
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Forks a child that runs `f` and ends.
    ///
    /// A `&mut` part of shared memory has to be moved into `f`, or borrowed by it, and
    /// [may not lie in a cell, a lock or a static](self#what-the-borrow-checker-does-not-see).
    ///
    /// What `f` owns is in the child and is dropped there when `f` ends; this process drops its own copy at once, so
    /// that the end of a pipe that was moved into `f` is closed here. The child starts on `f` when that is done: a
    /// destructor that writes to a part of shared memory never does so beside it. Until it is waited for, a child takes
    /// two descriptors.
    ///
    /// # Errors
    /// [`Error::MultiThreaded`]; [`Error::Os`] for what the kernel refused, and in a child of this scope, which has to
    /// open one of its own.
    ///
    /// # Examples
    /// ```
    /// let hits = stillmap::Shared::<std::sync::atomic::AtomicU32>::new()?;
    /// stillmap::fork::scope(|s| {
    ///     let child = s.spawn(|| {
    ///         hits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    ///     })?;
    ///     assert!(child.wait()?.success());
    ///     assert_eq!(hits.load(std::sync::atomic::Ordering::Relaxed), 1);
    ///     Ok::<(), stillmap::Error>(())
    /// })??;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn spawn<F: FnOnce() + 'scope>(&'scope self, f: F) -> Result<Child<'scope>> {
        if !self.children.are_ours() {
            return Err(not_ours("fork"));
        }
        let pipe = || process::pipe().map_err(|e| Error::os("pipe2", None, e));
        let (reader, writer) = pipe()?;
        let dropping = match mem::needs_drop::<F>() {
            true => Some(pipe()?),
            false => None,
        };
        // Half a line that waits here would be printed by the child again.
        let _ = io::stdout().flush();
        let still = monitor::hold_still();
        alone(&still)?;
        // SAFETY:
        // - There is no other thread but the keeper, which holds no lock of ours and has nothing half changed (`still`);
        //   should it be allocating, fork(2) of the C library takes the allocator's locks first.
        // - The child runs `f` and `_exit`s: it does not return into what it has a copy of.
        #[allow(unsafe_code)]
        let side = unsafe { process::fork() };
        match side.map_err(|e| Error::os("fork", None, e))? {
            Side::Child => {
                still.in_child();
                begin(self.children.process, dropping.map(|(dropped, _)| dropped));
                run(writer, f)
            }
            Side::Parent { child } => {
                drop(still);
                drop(writer);
                let child = self.children.add(Running {
                    id: ChildId::new(child),
                    said: reader,
                });
                give_away(f);
                // Here, or as a destructor unwinds.
                drop(dropping);
                Ok(child)
            }
        }
    }
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

    /// Waits until it is gone, and gives how it ended; the [`scope`] then does not count it as failed.
    ///
    /// # Errors
    /// [`Error::Os`] with `waitid` and `ECHILD` if nobody knows how it ended, see [`scope`], or in another child.
    ///
    /// # Examples
    /// ```
    /// stillmap::fork::scope(|s| {
    ///     let child = s.spawn(|| panic!("a child may fail"))?;
    ///     assert_eq!(child.wait()?.code(), Some(101));
    ///     Ok::<(), stillmap::Error>(())
    /// })??; // and the scope is content
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn wait(self) -> Result<ExitStatus> {
        if !self.children.are_ours() {
            return Err(not_ours("waitid"));
        }
        match self.children.remove(self.place) {
            Some(running) => running.wait(),
            None => Err(nobody_knows()),
        }
    }
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

impl fmt::Debug for Child<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child").field("id", &self.id).finish()
    }
}

/// The children of a scope that are not reaped.
struct Children {
    /// Whose they are: a forked child has a copy of this, and none of them.
    process: i32,
    running: RefCell<Vec<Option<Running>>>,
}

/// A child that runs, or ran and is not reaped.
struct Running {
    id: ChildId,
    /// The child, and whatever it forks, holds the other end until its memory is gone: Linux gives the memory back
    /// before it closes descriptors. What comes out is the exit code, if it could say it.
    said: OwnedFd,
}

impl Children {
    fn are_ours(&self) -> bool {
        process::id() == self.process
    }

    fn add(&self, child: Running) -> Child<'_> {
        let mut running = self.running.borrow_mut();
        let id = child.id.pid().unsigned_abs();
        running.push(Some(child));
        Child {
            children: self,
            place: running.len() - 1,
            id,
        }
    }

    fn remove(&self, place: usize) -> Option<Running> {
        let mut running = self.running.borrow_mut();
        let child = running.get_mut(place)?.take();
        // Places at the end that nobody can name any more.
        while running.last().is_some_and(Option::is_none) {
            running.pop();
        }
        child
    }

    /// Waits for those nobody waited for, and says what is wrong with the first that failed.
    fn wait_for_all(&self) -> Option<Error> {
        let mut failed = None;
        // In the order in which they were spawned.
        for child in self.running.take().into_iter().flatten() {
            let error = match child.wait() {
                Ok(status) if status.success() => continue,
                Ok(status) => Error::ChildFailed { status },
                Err(error) => error,
            };
            failed.get_or_insert(error);
        }
        failed
    }
}

impl Running {
    fn wait(self) -> Result<ExitStatus> {
        let mut said = Vec::new();
        // Ends when nobody holds the other end.
        let _ = File::from(self.said).read_to_end(&mut said);
        match self.id.wait() {
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => {
                // Somebody else reaped it, or nobody had to: SIGCHLD is ignored.
                let code = said.try_into().map(i32::from_ne_bytes);
                code.map(|code| ExitStatus::from_raw(code << 8))
                    .map_err(|_| nobody_knows())
            }
            other => other.map_err(|e| Error::os("waitid", None, e)),
        }
    }
}

/// Drops this process's copy of what a child was given. Not inlined: all its stores are made when it returns.
#[inline(never)]
fn give_away<F>(f: F) {
    drop(f);
}

/// The first that a child does: waits until its parent has dropped its copy of what both hold, and with it the same
/// `&mut`.
fn begin(parent: i32, dropped: Option<OwnedFd>) {
    if !process::die_with(parent) {
        process::exit_now(PANICKED);
    }
    if let Some(dropped) = dropped {
        // Ends when the parent has closed the other end.
        let _ = File::from(dropped).read_to_end(&mut Vec::new());
    }
}

/// The rest. Not inlined: nothing that `f` refers to is looked at before.
#[inline(never)]
fn run(said: OwnedFd, f: impl FnOnce()) -> ! {
    let us = process::id();
    let code = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(()) => 0,
        Err(panic) => {
            // Dropping it may panic again.
            mem::forget(panic);
            PANICKED
        }
    };
    // A process that `f` forked and that came back from it speaks for itself only.
    if process::id() == us {
        let _ = File::from(said).write_all(&code.to_ne_bytes());
    }
    process::exit_now(code)
}

/// Says if a fork would leave threads behind.
fn alone(still: &Still) -> Result<()> {
    let tasks = Path::new("/proc/self/task");
    match process::other_threads(still.thread()) {
        Ok(0) => Ok(()),
        Ok(threads) => Err(Error::MultiThreaded { threads }),
        Err(e) => Err(Error::os("open", Some(tasks), e)),
    }
}

fn not_ours(call: &'static str) -> Error {
    let why = "the scope is the parent's: open another in the child";
    Error::os(call, None, io::Error::new(io::ErrorKind::InvalidInput, why))
}

fn nobody_knows() -> Error {
    let source = io::Error::from_raw_os_error(libc::ECHILD);
    Error::os("waitid", None, source)
}
