//! `Snapshot` on every kind of input: exactly the bytes that `cat` would give, or a clear error.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod changing;
mod descriptors;
mod devices;
mod environments;
mod errors;
mod hostile;
mod interrupted;
mod limits;
mod messages;
mod options;
mod paths;
mod properties;
mod sealed;
mod served;
mod settled;
mod sizes;
mod stdin;
mod streams;
