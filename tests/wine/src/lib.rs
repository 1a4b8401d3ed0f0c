//! The types of this crate on Windows: what they do everywhere, and what share modes add.
#![cfg(all(test, windows))]

// The names that the tests of the library use.
pub(crate) use stillmap::*;

mod draft;
mod error;
mod exclusive;
mod live;
mod pages;
mod shared;
mod snapshot;
mod support;

#[path = "../../../src/portable/draft_tests.rs"]
mod draft_tests;
#[path = "../../../src/portable/tests.rs"]
mod tests;
