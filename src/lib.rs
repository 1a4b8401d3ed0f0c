//! Memory-mapped I/O in safe Rust.
#![deny(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::missing_safety_doc,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used
)]
