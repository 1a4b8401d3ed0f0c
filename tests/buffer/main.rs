//! Small files read into slabs of huge pages: their bytes, and the memory that stays when they are dropped.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod memory;
