//! `Live`: files that others go on writing, read without a lease, a copy or a signal.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod attach;
mod follow;
mod storm;
