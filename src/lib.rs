//! Memory-mapped I/O in safe Rust: any file, pipe or device as bytes that never change.
//!
//! Find your line, and follow the link to the type:
//!
//! | you have | you want | use | you get |
//! |---|---|---|---|
//! | a path, stdin, a pipe, a descriptor | its bytes, read-only | [`Snapshot`] | `&[u8]` |
//! | a file | a private copy that you can modify | [`Private`] | `&mut [u8]` |
//! | bytes to write | a new file, or an old one replaced in one step | [`Draft`] | `&mut [u8]` |
//! | an existing file | to edit it in place, alone | [`Exclusive`] | `&mut [u8]` |
//! | a file that other processes keep writing | to read it meanwhile | [`Live`] | copies and atomic loads |
//! | memory that other processes also write | counters, tables, messages | [`Shared`], [`shareable!`] | `&T` of atomics |
//! | no data yet | large zeroed memory that takes RAM when touched | [`Anonymous`] | `&mut [u8]` |
//! | work for forked children | children that fill parts of an [`Anonymous`] | [`fork::scope`] | `&mut` parts in children |
//! | any of these | to control and inspect its pages | [`pages()`](Pages) | advice, prefetch, locks, residency |
//!
//! # An example
//!
//! ```
//! use stillmap::{Anonymous, Draft, Snapshot};
//!
//! // Any input: a file, `-` for standard input, a FIFO, a device, a file of /proc.
//! let input = stillmap::Snapshot::open_or_stdin("Cargo.toml")?;
//! assert!(input.starts_with(b"[package]"));
//! println!("{} bytes, backed by {:?}", input.len(), input.backing());
//!
//! // A window of it; the range is checked against the file.
//! let window = Snapshot::options().offset(1).len(7).open("Cargo.toml")?;
//! assert_eq!(&window[..], b"package");
//!
//! // 1 GiB of addresses, and RAM for the pages that are touched.
//! let mut table = Anonymous::new(1 << 30)?;
//! table[..input.len()].copy_from_slice(&input);
//!
//! // Replace a file: readers see the old contents or the new, never a mixture.
//! let directory = tempfile::tempdir()?;
//! let mut draft = Draft::create(directory.path().join("copy"), input.len())?;
//! draft.copy_from_slice(&input);
//! draft.commit()?;
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # How it can be safe
//!
//! `&[u8]` promises that the bytes do not change, and any process may write to a file. So a mapping of a file is
//! `unsafe` in other crates, or safe with a warning. stillmap returns the reference only where something keeps the
//! promise. [`Snapshot::backing`] returns what: the bytes were read into memory, the kernel refuses every change (a
//! seal), the kernel blocks writers until stillmap has copied the bytes (a file lease), or the bytes are in an unnamed
//! file that only this process has.
//!
//! `&mut [u8]` further promises that no other code sees the bytes. [`Anonymous`] memory belongs to this process; a
//! [`Draft`] has no name before it is committed; a [`Private`] is a copy; and the kernel blocks every other open of the
//! file of an [`Exclusive`].
//!
#![doc = include_str!("../docs/promises.md")]
//!
//! # Ranges
//!
//! A range counts bytes from the start of the value, may be any [`RangeBounds<usize>`](std::ops::RangeBounds), and must
//! lie inside `0..len`; an empty one inside `0..=len`. Any other fails with [`Error::OutOfBounds`]. Ranges are
//! never clamped, and need not be aligned. Sizes, offsets and limits are in bytes; a length of 0 is allowed everywhere.
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
#![cfg_attr(
    not(target_os = "linux"),
    allow(
        dead_code,
        unused_imports,
        reason = "errors and locks that only Linux needs"
    )
)]
#![doc(test(attr(deny(warnings))))]

mod backing;
mod bytes;
pub mod docs;
mod enums;
mod error;
pub mod faults;
mod options;
pub mod page;
mod range;
mod reason;
mod residency;
mod shareable;
mod sync;
mod sys;

// The same public types, by the modules of Linux, or for every other platform by `std` and `sys`.
#[cfg(target_os = "linux")]
#[path = "linux.rs"] // so that its modules are files of `src/`, not of `src/linux/`
mod linux;
#[cfg(any(not(target_os = "linux"), test))]
mod portable;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(not(target_os = "linux"))]
use portable as platform;
// A module of the platform is `crate::name` in all others.
use platform::*;

pub use platform::anonymous::{Anonymous, AnonymousOptions};
pub use platform::draft::{CommitError, Draft, DraftOptions};
pub use platform::exclusive::{Exclusive, ExclusiveOptions};
pub use platform::fork;
pub use platform::live::Live;
pub use platform::open_all::{OpenAll, open_all};
pub use platform::pages::{Advice, LockGuard, Pages, Prefetch};
pub use platform::private::{Private, PrivateOptions};
pub use platform::shared::{Shared, SharedOptions};
pub use platform::snapshot::{Snapshot, SnapshotOptions, SnapshotProgress};

pub use backing::Backing;
pub use enums::{Change, HugePages, Replace};
pub use error::{Error, Result, Tried};
pub use reason::Reason;
pub use residency::Residency;
pub use shareable::Shareable;
#[doc(hidden)]
pub use shareable::checks as _shareable;

/// Returns memory to the kernel that is kept for the next snapshots.
///
/// A thread that holds many small files reads them into slabs of 4 MiB. When the last snapshot in a slab is dropped, the
/// process keeps one such slab for the next snapshots, because new memory costs page faults. The kernel may take its pages
/// when memory is short (`MADV_FREE`, madvise(2)). The slab that a thread is filling is not returned.
///
/// # Examples
/// ```
/// stillmap::release_unused_memory();
/// ```
pub fn release_unused_memory() {
    release_unused();
}

/// Copies the bytes of all leased snapshots of this process and releases their leases. To be called before the process is
/// stopped (Ctrl-Z), suspended or migrated: then it blocks no writer while it does not run.
///
/// Blocks until that is done; a copy goes to memory or to an unnamed file, as when a writer opens the file. The bytes stay
/// at their addresses, and [`backing`](Snapshot::backing) changes. An [`Exclusive`] keeps its lease. Snapshots that are
/// opened afterwards are leased again.
///
/// Returns true if no read lease is left, and false if there was neither memory nor disk for a copy, or if another thread
/// has opened a file meanwhile.
///
/// # Examples
/// ```
/// let bytes = stillmap::Snapshot::open("Cargo.toml")?;
/// assert!(stillmap::release_leases());
/// // Now the process may be stopped: no writer waits for it.
/// assert!(bytes.starts_with(b"[package]"));
/// # Ok::<(), stillmap::Error>(())
/// ```
pub fn release_leases() -> bool {
    release_all()
}

/// The code of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
