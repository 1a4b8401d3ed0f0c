//! File leases: while one is held, the kernel blocks a process that opens the file for writing.
//!
//! ```text
//!   read     write       what a snapshot and an `Exclusive` hold
//!      \      /
//!      monitor           two threads: one watches, one copies      child    leases in a forked child
//!      /      \
//!   copy     detach      the answers
//!      \      /
//!   table, space, deadline
//! ```

mod child;
mod copy;
mod deadline;
mod detach;
pub(crate) mod monitor;
pub(crate) mod read;
mod space;
mod table;
pub(crate) mod write;
