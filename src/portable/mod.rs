//! The types of this crate on platforms that have no implementation of their own: the same names and signatures, by `std`.
//!
//! Bytes of files are read into memory, which is sound by construction; files that are locked are mapped. What cannot be done so fails with [`Error::Unsupported`](crate::Error::Unsupported) at run time. docs/platforms.md has the table.
//! On Linux this is compiled for its unit tests only.
#![cfg_attr(target_os = "linux", allow(dead_code, unused_imports, unreachable_pub))]

pub(crate) mod anonymous;
mod bytes;
pub(crate) mod draft;
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

// What only one platform can have: methods that name its types, and share modes.
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

/// Nothing is kept.
pub(crate) fn release_unused() {}

/// There are no leases.
pub(crate) fn release_all() -> bool {
    true
}
