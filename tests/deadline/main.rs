//! The end of the kernel's patience with the holder of a broken lease (fs.lease-break-time), which these tests lower for
//! the whole machine: they run one at a time, beside no others.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod detached;
mod given_up;
mod stopped;
