//! Leased snapshots: their bytes stay while other processes change the file, and those processes continue.
#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod attacked;
mod breaking;
mod descriptors;
mod exhausted;
mod forked;
mod released;
mod storm;
mod strategies;

use support::leased::{Disk, Folder, leased};
