//! Leased snapshots: their bytes stay, whatever anybody does to the file, and whoever does it gets through.
#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod breaking;
mod disk;
mod exhausted;
mod forked;
mod rungs;
mod stopped;
mod storm;

use disk::{Disk, leased};
