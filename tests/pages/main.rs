//! `pages()`, the same on every type: ranges, residency, populate, locks, huge pages; and page faults.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod flags;
mod kinds;

mod elsewhere;
mod failing_device;
mod faults;
mod harmless;
mod huge;
mod lock;
mod populate;
mod prefetch;
mod ranges;
mod residency;
mod swapped;
