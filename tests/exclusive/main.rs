//! `Exclusive`: an existing file edited in place, with every other open blocked.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod edit;
mod forked;
mod full;
mod opened;
mod refused;
mod turns;
mod wanted;
mod windows;
