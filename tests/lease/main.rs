//! Leased snapshots: their bytes stay, whatever anybody does to the file, and whoever does it gets through.
#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod breaking;
mod exhausted;
mod forked;
mod released;
mod rungs;
mod storm;

use support::leased::{Disk, Folder, leased};
