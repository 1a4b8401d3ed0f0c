//! Memory-mapped I/O in safe Rust.
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
mod block;
mod draft;
mod error;
mod exclusive;
mod guard;
pub mod page;
mod private;
mod region;
mod replica;
mod snapshot;
mod source;
mod sys;

pub use anonymous::{Anonymous, AnonymousOptions, HugePages};
pub use draft::{Draft, DraftOptions};
pub use error::{Error, Result};
pub use exclusive::Exclusive;
pub use private::Private;
pub use replica::Backing;
pub use snapshot::{Snapshot, SnapshotOptions};

use std::path::Path;

/// The bytes of a file: [`Snapshot::open`].
///
/// # Errors
/// As [`Snapshot::open`].
///
/// # Examples
/// ```
/// assert!(folio::open("Cargo.toml")?.len() > 100);
/// # Ok::<(), folio::Error>(())
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
/// println!("{} bytes", folio::stdin()?.len());
/// # Ok::<(), folio::Error>(())
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
/// println!("{} bytes", folio::open_or_stdin(input)?.len());
/// # Ok::<(), folio::Error>(())
/// ```
pub fn open_or_stdin<P: AsRef<Path>>(path: P) -> Result<Snapshot> {
    match path.as_ref() {
        dash if dash == Path::new("-") => stdin(),
        path => open(path),
    }
}
