//! The end of the lease-break time (fs.lease-break-time), which these tests lower for
//! the whole machine: they run one at a time, without other tests.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod attacked;
mod detached;
mod given_up;
mod resized;
mod short;
mod stopped;
