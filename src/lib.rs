//! Memory-mapped I/O in safe Rust: any file, pipe or device as bytes that do not change, files to write, memory to fill or to share.
//!
//! | you have | you want | use | it gives |
//! |---|---|---|---|
//! | a path, stdin, a pipe, any descriptor | its bytes, read-only | [`Snapshot`], or [`open`], [`stdin`], [`open_or_stdin`] | `&[u8]` |
//! | nothing | zeroed memory: large, granted page by page, with huge pages if you like | [`Anonymous`] | `&mut [u8]` |
//! | [`Anonymous::shared`] and work to split | forked children that fill parts of it | [`fork::scope`] | `&mut` parts, borrowed by children |
//! | memory that others write, too | counters, tables, messages | [`Shared`], [`shareable!`] | `&T` of atomics |
//! | a file | to change its bytes, and not the file | [`Private`] | `&mut [u8]` |
//! | a new file to write | all of it or nothing | [`Draft`] | `&mut [u8]` |
//! | an existing file | to edit it in place | [`Exclusive`] | `&mut [u8]` |
//! | any of these | pages in RAM, or out of it; a look at them | [`Mapping`], [`faults`] | advice, prefetch, locks, residency |
//!
//! # An example
//!
//! ```
//! use stillmap::{Anonymous, Snapshot};
//!
//! // Any input: a file, `-` for standard input, a FIFO, a device, a file of /proc.
//! let input = stillmap::open_or_stdin("Cargo.toml")?;
//! assert!(input.starts_with(b"[package]"));
//! println!("{} bytes, kept by {:?}", input.len(), input.backing());
//!
//! // A part of it; the range is checked against the file.
//! let window = Snapshot::options().offset(1).len(7).open("Cargo.toml")?;
//! assert_eq!(&window[..], b"package");
//!
//! // 1 GiB of addresses; RAM for what is touched.
//! let mut table = Anonymous::new(1 << 30)?;
//! table[..input.len()].copy_from_slice(&input);
//! table.discard(..7)?; // reads as zero again
//! assert_eq!(&table[..9], b"\0\0\0\0\0\0\0e]");
//!
//! // A new file: the old one or this one, whole, whatever happens.
//! let folder = tempfile::tempdir().expect("a folder");
//! let mut draft = stillmap::Draft::create(folder.path().join("copy"), input.len())?;
//! draft.copy_from_slice(&input);
//! draft.commit()?;
//!
//! // Read-only from here on, to keep or to send to other threads.
//! let frozen: Snapshot = table.freeze()?;
//! std::thread::scope(|scope| {
//!     scope.spawn(|| assert_eq!(frozen[8], b']'));
//! });
//! # Ok::<(), stillmap::Error>(())
//! ```
//!
//! # How it can be safe
//!
//! `&[u8]` promises that nobody changes the bytes, and a file is open to everybody. So a mapping of a file is `unsafe` in other crates, or safe
//! with a warning. stillmap gives the reference only where something keeps the promise, and [`Snapshot::backing`] tells what it is:
//!
//! - [`Memory`](Backing::Memory): the bytes were read. So are pipes and all else that has no size, and small files, for which
//!   reading is faster than mapping.
//! - [`Sealed`](Backing::Sealed): the kernel refuses every change (memfd seals, fs-verity).
//! - [`Leased`](Backing::Leased): the kernel holds back whoever opens the file for writing or truncates it, and tells stillmap, which
//!   copies the bytes and puts the copy in place of the mapping, at the same addresses and in one step. Then the writer goes on.
//! - [`Cloned`](Backing::Cloned): the bytes are in an unnamed file of ours, a reflink clone or a copy.
//! - [`Unguarded`](Backing::Unguarded): you promised it yourself, in `unsafe`.
//!
//! `&mut [u8]` promises that nobody else sees the bytes, either. [`Anonymous`] memory is ours; a [`Draft`] has no name before it is
//! committed; a [`Private`] lies over what nobody changes, and its stores are seen by nobody; over an [`Exclusive`] the kernel holds back
//! everybody who opens the file, until it is closed.
//!
//! # What it promises
//!
//! - Every input gives the bytes that `cat` would give, or an [`Error`] that names the call and the path, with the cause as its source.
//! - The bytes of a `Snapshot` do not change and do not vanish, whoever writes to the file, truncates, renames or deletes it.
//! - A writer is held no longer than the copy takes, and loses nothing.
//! - The path of a [`Draft`] stands for the old file or the new one, whole, and after [`commit`](Draft::commit) durably for the new one.
//! - While an [`Exclusive`] lives, whoever opens the file waits, and finds every store made before.
//! - A full disk, a quota, a limit is an error, and no signal.
//! - Endless input does not exhaust memory: beyond [`limit`](SnapshotOptions::limit) it is [`Error::TooLarge`].
//! - Memory, descriptors and leases are given back at once: on drop, and by a call that fails.
//! - No signal handler, no signal mask and no thread of the program is touched; from the first lease on there is one thread more,
//!   `stillmap-keeper`, which sleeps until a lease breaks, and looks four times in each lease-break-time (45 s) while there are leases.
//!   Large copies and [`prefetch`](Mapping::prefetch) have threads that end with their work. (A [`Shared`] over a file installs a
//!   handler for SIGBUS, see there.)
//!
//! # What it does not promise
//!
//! - A device that fails under a mapped file is a SIGBUS of the kernel: bytes cannot be invented.
//!   [`populate(true)`](SnapshotOptions::populate) makes it an error of the call.
//! - A process that is stopped for longer than the kernel waits for a lease (45 s) can be overtaken; [`Snapshot::is_intact`] tells.
//! - Two ways to truncate a file break no lease on Linux: `open(O_RDONLY | O_TRUNC)`, and truncate(2) through an overlay mount
//!   above the file; and one way to write does not, pages of the file that the kernel is still reading into for somebody who has
//!   closed it. Where you have to expect them, use [`lease(false)`](SnapshotOptions::lease).
//! - An [`Exclusive`] holds others back for three quarters of that time. Then they get the file as it is, later stores stay in memory, and
//!   [`close`](Exclusive::close) says [`LeaseLost`](Error::LeaseLost). Where it cannot be had at all it is
//!   [`Unprotectable`](Error::Unprotectable): on btrfs, tmpfs and overlayfs, for others' files, and under the seccomp filter of many containers.
//! - If a writer comes and there is neither memory nor disk for a copy, the process ends with a message; the bytes do not change.
//! - In a child of a raw fork(2) a leased snapshot is not mapped, unless [`across_fork(true)`](SnapshotOptions::across_fork) was asked for.
//!
//! Event by event and type by type: [`docs::safety`]. What is on the disk, and when: [`docs::durability`].
//!
//! # Ranges
//!
//! One rule for every call that takes a range, and one place that checks it: a range counts bytes from the start of the value, may be any
//! [`RangeBounds<usize>`](std::ops::RangeBounds), and must lie inside `0..len`; an empty one inside `0..=len`. Anything else is
//! [`Error::OutOfBounds`], which says what was asked for and what there is. Nothing is cut to fit, and nothing needs to be aligned.
//! [`offset`](SnapshotOptions::offset) and [`len`](SnapshotOptions::len) of a snapshot follow the same rule, against the size of the file.
//!
//! # Platforms
//!
//! 64-bit Linux; elsewhere it does not compile. Any length is allowed, 0 as well. Sizes, offsets and limits are bytes.
#![deny(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::missing_safety_doc,
    clippy::disallowed_methods,
    clippy::disallowed_types
)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]
#![doc(test(attr(deny(warnings))))]

mod anonymous;
mod atfork;
mod backing;
mod budget;
mod buffer;
pub mod docs;
mod draft;
mod error;
mod exclusive;
mod file_system;
pub mod fork;
mod input;
mod lease;
pub mod page;
mod pages;
mod private;
mod range;
mod region;
mod shared;
mod snapshot;
mod sys;

pub use anonymous::{Anonymous, AnonymousOptions, HugePages};
pub use backing::Backing;
pub use draft::{Draft, DraftOptions};
pub use error::{Error, Result};
pub use exclusive::Exclusive;
pub use pages::faults;
pub use pages::{Advice, LockGuard, Mapping, Residency};
pub use private::Private;

pub use shared::{Shareable, Shared};
pub use snapshot::{Snapshot, SnapshotOptions};

use std::path::Path;

/// The bytes of a file: [`Snapshot::open`].
///
/// # Errors
/// As [`Snapshot::open`].
///
/// # Examples
/// ```
/// assert!(stillmap::open("Cargo.toml")?.len() > 100);
/// # Ok::<(), stillmap::Error>(())
/// ```
pub fn open<P: AsRef<Path>>(path: P) -> Result<Snapshot> {
    Snapshot::open(path)
}

/// The bytes of standard input: [`Snapshot::stdin`].
///
/// # Errors
/// As [`Snapshot::open`].
///
/// # Examples
/// ```no_run
/// println!("{} bytes", stillmap::stdin()?.len());
/// # Ok::<(), stillmap::Error>(())
/// ```
pub fn stdin() -> Result<Snapshot> {
    Snapshot::stdin()
}

/// The bytes of a file, or of standard input if the path is `-`.
///
/// # Errors
/// As [`Snapshot::open`].
///
/// # Examples
/// ```no_run
/// let input = std::env::args_os().nth(1).unwrap_or("-".into());
/// println!("{} bytes", stillmap::open_or_stdin(input)?.len());
/// # Ok::<(), stillmap::Error>(())
/// ```
pub fn open_or_stdin<P: AsRef<Path>>(path: P) -> Result<Snapshot> {
    match path.as_ref() {
        dash if dash == Path::new("-") => stdin(),
        path => open(path),
    }
}

/// The code of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
