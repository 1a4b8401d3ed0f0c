//! Share memory with forked children, as [`std::thread::scope`] does with threads.
//!
//! [`scope`] forks children that run a closure each, in a copy of this process, and waits for all of them.
//!
//! ```text
//!   scope ----- spawn ----- spawn ----- end of the closure ----- all children are gone ----- scope returns
//!                 |           |                                          |
//!                 +-- child --|---------------------- _exit -------------+
//!                             +-- child ------------------------ _exit --+
//! ```
//!
//! Memory that parent and children share:
//!
//! | memory | in a child |
//! |---|---|
//! | [`Shared`](crate::Shared) | the same memory, accessed by atomics |
//! | [`Anonymous::shared`](crate::Anonymous::shared) | the parts that [`spawn_with`](Scope::spawn_with) passes to this child; the rest is not accessible |
//! | [`Draft`](crate::Draft), [`Exclusive`](crate::Exclusive) | not accessible; their methods fail with [`WrongProcess`](crate::Error::WrongProcess) |
//! | all other memory | a copy of its own |
//!
//! A child that touches a byte that is not accessible is killed by SIGSEGV, and the scope returns
//! [`ChildFailed`](crate::Error::ChildFailed). A system call on such bytes fails with `EFAULT`. So if a `&mut` part is in a
//! `Cell`, a lock or a static, parent and child have a copy of the reference each, but only one of them can use it:
//! ```
//! use stillmap::Error;
//! let mut memory = stillmap::Anonymous::shared(8)?;
//! let slot = std::cell::Cell::new(Some(&mut memory[..]));
//! let result = stillmap::fork::scope(|s| {
//!     s.spawn(|| slot.take().unwrap().fill(1))?; // a copy of the slot; the bytes are not accessible
//!     slot.take().unwrap().fill(2);
//!     Ok::<(), Error>(())
//! });
//! assert!(matches!(result, Err(Error::ChildFailed { .. })));
//! assert_eq!(memory[..], [2; 8]);
//! # Ok::<(), Error>(())
//! ```
//!
//! A process can be forked safely only if it has no other threads: the child would inherit a copy of memory with locks
//! still held by threads that do not exist in it. So everything here fails with
//! [`MultiThreaded`](crate::Error::MultiThreaded) if there are any. Threads that are about to end, such as those that were
//! joined, are waited for. The threads with which this crate watches leases do not count; those of another version of it
//! in the same program do.
//!
//! # In a child
//! - It ends with `_exit`: no `atexit` handlers run, nothing of the parent's is dropped, and buffers of C or Rust are
//!   not flushed. Lines that were printed have been written.
//! - A panic prints its message and ends it with exit code 101.
//! - It is killed when the process that spawned it dies (`PR_SET_PDEATHSIG`).
//! - Descriptors are shared with the parent, offsets included, also those with close-on-exec: there is no exec. Those of
//!   the parent's leased snapshots, drafts and exclusive files are closed.
//! - It may open a scope of its own, and pass the parts that it got on to its children; it cannot use the parent's scope.
//!
//! # Other ways to fork
//! The same holds for children that a program makes by fork(2) or daemon(3): the memory of an `Anonymous::shared` is not
//! accessible there, see [`Anonymous::allow_in_child`](crate::Anonymous::allow_in_child).

mod child;
mod part;
mod scope;
mod threads;

pub use child::Child;
pub use part::Parts;
pub use scope::{Scope, scope};
