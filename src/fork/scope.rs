//! Forking children and waiting for all of them.
#![allow(unsafe_code)]

use super::child::{Child, Children, PANIC_EXIT_CODE, Running};
use super::part::{self, Parts};
use super::threads::ensure_single_threaded;
use crate::atfork;
use crate::error::{Error, Result};
use crate::process::Process;
use crate::sys::process::{self, Fork};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::marker::PhantomData;
use std::mem;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs `f`, which may [`spawn`](Scope::spawn) children that borrow from here, and returns when all of them are gone.
///
/// It never returns before that. If `f` panics, it waits, and the panic continues. Processes that a child
/// forks are waited for too, also if the child itself was killed. A stopped child is waited for until another process
/// continues or kills it.
///
/// # Errors
/// - [`Error::MultiThreaded`] if the process has other threads, before `f` is run.
/// - [`Error::ChildFailed`] if a child that `f` did not [`wait`](Child::wait) for did not end with success: with the
///   status of the first such child. What `f` returned is dropped.
/// - [`Error::Os`] with `waitid` and `ECHILD` if the status is unknown: the program ignores SIGCHLD or reaped the child,
///   the kernel is older than 6.15, and the child neither returned nor panicked.
///
/// # Examples
/// Children fill the pages of a mapping in place:
/// ```
/// let mut memory = stillmap::Anonymous::shared(1 << 20)?;
/// stillmap::fork::scope(|s| {
///     for (number, part) in memory.page_chunks_mut(300_000).enumerate() {
///         s.spawn_with(part, move |part| part.fill(number as u8))?;
///     }
///     Ok::<(), stillmap::Error>(())
/// })??;
/// assert_eq!((memory[0], memory[(1 << 20) - 1]), (0, 3));
/// # Ok::<(), stillmap::Error>(())
/// ```
/// The parent cannot use what it passed to a child before the scope ends:
/// ```compile_fail,E0499
/// let mut memory = stillmap::Anonymous::shared(8)?;
/// stillmap::fork::scope(|s| {
///     s.spawn_with(&mut memory[..], |all| all.fill(1))?;
///     memory.fill(2);
///     Ok::<(), stillmap::Error>(())
/// })??;
/// # Ok::<(), stillmap::Error>(())
/// ```
/// and a child borrows nothing that ends before the scope:
/// ```compile_fail,E0597
/// stillmap::fork::scope(|s| {
///     let mut memory = stillmap::Anonymous::shared(8)?;
///     s.spawn_with(&mut memory[..], |all| all.fill(1))?;
///     Ok::<(), stillmap::Error>(())
/// })??;
/// # Ok::<(), stillmap::Error>(())
/// ```
///
/// Source: fork(2), waitid(2), pidfd_open(2), prctl(2).
pub fn scope<'env, F, T>(f: F) -> Result<T>
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> T,
{
    atfork::install()?;
    ensure_single_threaded()?;
    let scope = Scope {
        children: Children::new(),
        marker: PhantomData,
    };
    let ended = catch_unwind(AssertUnwindSafe(|| f(&scope)));
    let failed = scope.children.wait_for_all();
    match ended {
        Err(panic) => resume_unwind(panic),
        Ok(value) => failed.map_or(Ok(value), Err),
    }
}

/// The scope in which children are spawned, see [`scope`]. It stays on its thread.
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
    /// Invariant in both lifetimes, as `std::thread::Scope`: else `'scope` could be shortened to end before the children.
    /// Neither `Send` nor `Sync`.
    marker: PhantomData<(&'scope mut &'scope (), &'env mut &'env (), *mut ())>,
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Forks a child that runs `f` and ends. No part of an [`Anonymous::shared`](crate::Anonymous::shared) is accessible
    /// in it: use [`Shared`](crate::Shared) memory, or [`spawn_with`](Scope::spawn_with).
    ///
    /// The values that `f` owns are dropped in the child when `f` ends. This process drops its own copy at once, so
    /// that the end of a pipe that was moved into `f` is closed here; the child may be running already. Until it is
    /// waited for, a child takes two descriptors.
    ///
    /// # Errors
    /// [`Error::MultiThreaded`]; [`Error::Os`] for what the kernel refused; [`Error::WrongProcess`] in a child of this
    /// scope, which has to open one of its own.
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
    pub fn spawn<F>(&'scope self, f: F) -> Result<Child<'scope>>
    where
        F: FnOnce() + 'scope,
    {
        // SAFETY: no pages.
        unsafe { self.fork(Vec::new(), f) }
    }

    /// Like [`spawn`](Scope::spawn), with parts of shared memory that the child fills in place.
    ///
    /// A part is a `&mut [u8]` of whole pages of an [`Anonymous::shared`](crate::Anonymous::shared), where the end of the
    /// value counts as the end of a page: see [`page_chunks_mut`](crate::Anonymous::page_chunks_mut). Arrays, vectors
    /// and tuples of parts are also [`Parts`]. The child can pass on what it was given, in a scope of its own.
    ///
    /// # Errors
    /// As [`spawn`](Scope::spawn). [`Error::NotShared`] for bytes that are not in an `Anonymous::shared` that this process
    /// made, or in a part that was passed to it; [`Error::Misaligned`] if they are not whole pages of it.
    ///
    /// # Examples
    /// ```
    /// let mut memory = stillmap::Anonymous::shared(8)?;
    /// let total = stillmap::fork::scope(|s| {
    ///     s.spawn_with(&mut memory[..], |all| all.fill(7)).map(drop)
    /// })?;
    /// assert_eq!(memory[..], [7; 8]);
    /// # total?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn spawn_with<P, F>(&'scope self, parts: P, f: F) -> Result<Child<'scope>>
    where
        P: Parts + 'scope,
        F: FnOnce(P) + 'scope,
    {
        let pages = part::pages(&parts)?;
        // SAFETY:
        // - The pages hold bytes of `parts` and of no other value, and `parts` is moved: until the scope ends, this
        //   process has no other reference to them. When it ends, the child and all that it forked are gone.
        // - They are lendable here: no other process has a reference to them that it can use.
        unsafe { self.fork(pages, move || f(parts)) }
    }

    /// Like [`spawn`](Scope::spawn), in a child where all memory of each
    /// [`Anonymous::shared`](crate::Anonymous::shared) is accessible that is accessible here, and parts need not be whole
    /// pages.
    ///
    /// # Errors
    /// As [`spawn`](Scope::spawn).
    ///
    /// # Safety
    /// As long as the child lives, no byte of shared memory is used through a `&mut` in one process and in any way in
    /// another. Parent and child have a copy of every value. So this includes parts in a `Cell`, a lock, a static or a
    /// thread-local, and the destructors of values that `f` owns, which run in both processes.
    ///
    /// # Examples
    /// ```
    /// let mut memory = stillmap::Anonymous::shared(8)?;
    /// let (left, right) = memory.split_at_mut(4);
    /// stillmap::fork::scope(|s| {
    ///     // SAFETY: each child uses a half, and this process neither.
    ///     unsafe { s.spawn_unchecked(|| left.fill(1)) }?;
    ///     // SAFETY: as above.
    ///     unsafe { s.spawn_unchecked(|| right.fill(2)) }?;
    ///     Ok::<(), stillmap::Error>(())
    /// })??;
    /// assert_eq!(&memory[..], [1, 1, 1, 1, 2, 2, 2, 2]);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub unsafe fn spawn_unchecked<F>(&'scope self, f: F) -> Result<Child<'scope>>
    where
        F: FnOnce() + 'scope,
    {
        // SAFETY: the caller promises that parent and child use the memory as one program may.
        unsafe { self.fork(atfork::all_lendable(), f) }
    }

    /// Forks a child that has access to `pages`.
    ///
    /// # Safety
    /// As long as the child lives, no other process uses the bytes in `pages` in a way that conflicts with `f`.
    unsafe fn fork(
        &'scope self,
        pages: Vec<Range<usize>>,
        f: impl FnOnce(),
    ) -> Result<Child<'scope>> {
        self.children.check_process()?;
        let (reader, writer) = process::pipe().map_err(|e| Error::os("pipe2", None, e))?;
        // Otherwise the child would also print half a line that is still in the buffer.
        let _ = io::stdout().flush();
        ensure_single_threaded()?;
        let parent = std::process::id();
        // SAFETY:
        // - No other thread exists but those of the lease monitor, which hold no lock and allocate nothing.
        // - The child runs `f` and exits: it does not return into what it has a copy of.
        match unsafe { process::fork() }.map_err(|e| Error::os("fork", None, e))? {
            Fork::Child => {
                if !process::set_parent_death_signal(parent) {
                    process::exit_immediately(PANIC_EXIT_CODE);
                }
                for pages in pages {
                    // SAFETY: the caller promises that this process may use the pages.
                    if let Err(error) = unsafe { atfork::lend(pages) } {
                        let _ = writeln!(io::stderr(), "stillmap: {error}");
                        process::exit_immediately(PANIC_EXIT_CODE);
                    }
                }
                child_main(writer, f)
            }
            Fork::Parent { child } => {
                drop(writer);
                let child = self.children.add(Running::new(child, reader));
                drop(f);
                Ok(child)
            }
        }
    }
}

/// Not inlined: nothing that `f` refers to is loaded before the pages are accessible.
#[inline(never)]
fn child_main(status_pipe: OwnedFd, f: impl FnOnce()) -> ! {
    let own = Process::current();
    let code = match catch_unwind(AssertUnwindSafe(f)) {
        Ok(()) => 0,
        Err(panic) => {
            // Dropping it may panic again.
            mem::forget(panic);
            PANIC_EXIT_CODE
        }
    };
    // If `f` itself forked and the new process returned here, it must not report for this one.
    if own.is_current() {
        let _ = File::from(status_pipe).write_all(&code.to_ne_bytes());
    }
    process::exit_immediately(code)
}

impl fmt::Debug for Scope<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}
