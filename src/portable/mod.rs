//! The types of this crate on platforms that have no implementation of their own: the same names and signatures, by `std`.
//!
//! Bytes of files are read into memory, which is sound by construction; `windows` maps files that are locked. What cannot
//! be done so fails with [`Error::Unsupported`](crate::Error::Unsupported) at run time. docs/platforms.md has the table.
//! On Linux this is compiled for its unit tests only.
#![cfg_attr(target_os = "linux", allow(dead_code, unused_imports, unreachable_pub))]

mod anonymous;
#[cfg(not(windows))]
mod by_std;
mod bytes;
mod draft;
mod exclusive;
pub mod fork;
mod input;
mod live;
mod memory;
mod open_all;
mod pages;
mod private;
mod shared;
mod snapshot;
pub(crate) mod system;
#[cfg(test)]
mod tests;
#[cfg(windows)]
mod windows;

#[cfg(not(windows))]
use by_std as platform;
#[cfg(windows)]
use windows as platform;

pub use anonymous::{Anonymous, AnonymousOptions};
pub use draft::{CommitError, Draft, DraftOptions};
pub use exclusive::{Exclusive, ExclusiveOptions};
pub use live::Live;
pub use open_all::{OpenAll, open_all};
pub use pages::{Advice, LockGuard, Pages, Prefetch};
pub use private::{Private, PrivateOptions};
pub use shared::{Shared, SharedOptions};
pub use snapshot::{Snapshot, SnapshotOptions, SnapshotProgress};

/// Nothing is kept.
pub(crate) fn release_unused() {}

/// There are no leases.
pub(crate) fn release_all() -> bool {
    true
}
