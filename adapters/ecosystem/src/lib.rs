//! The examples of `docs/ecosystem.md`, compiled and run: `cargo test`.
#![doc = include_str!("../../../docs/ecosystem.md")]
