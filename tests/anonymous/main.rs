//! `Anonymous`: zeroed memory that is allocated when touched and freed at once.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod freeze;
mod huge;
mod laziness;
mod lengths;
mod model;
mod placement;
mod shared;

use stillmap::{Anonymous, AnonymousOptions};

/// Private and shared memory promise the same in most things.
fn both_kinds() -> [AnonymousOptions; 2] {
    [false, true].map(|shared| Anonymous::options().shared(shared))
}
