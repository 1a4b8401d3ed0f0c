//! The types of this crate on every platform but Linux: the same names and signatures, by `std` and `sys`.
//!
//! The bytes of files are read into memory, which is sound by construction. Files are mapped where no process can write to
//! them (`locked`). Calls that are not possible fail with [`Error::Unsupported`](crate::Error::Unsupported) at run time.
//! docs/platforms.md has the table. On Linux this is compiled for its unit tests only.
#![cfg_attr(target_os = "linux", allow(dead_code, unused_imports, unreachable_pub))]

pub(crate) mod anonymous;
mod bytes;
pub(crate) mod draft;
#[cfg(test)]
mod draft_tests;
pub(crate) mod exclusive;
pub mod fork;
mod input;
pub(crate) mod live;
mod locked;
mod locked_pages;
mod memory;
pub(crate) mod open_all;
pub(crate) mod pages;
pub(crate) mod private;
pub(crate) mod shared;
pub(crate) mod snapshot;
#[cfg(test)]
mod tests;
mod writable;

// For one platform only: methods on its descriptors or handles, and share modes.
#[cfg(not(windows))]
mod no_share_mode;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(not(windows))]
use no_share_mode as share_mode;
#[cfg(windows)]
use windows::share_mode;

// The names that `tests` uses, which tests/wine has from the public ones.
#[cfg(test)]
use {
    anonymous::Anonymous,
    draft::Draft,
    exclusive::Exclusive,
    live::Live,
    open_all::open_all,
    private::Private,
    shared::Shared,
    snapshot::{Snapshot, SnapshotOptions},
};

/// Nothing is kept.
pub(crate) fn release_unused() {}

/// There are no leases.
pub(crate) fn release_all() -> bool {
    true
}
