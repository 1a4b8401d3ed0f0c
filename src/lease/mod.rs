//! File leases: while one is held, the kernel blocks a process that opens the file for writing.
//!
//! ```text
//!   read      write         what a snapshot and an `Exclusive` hold
//!      \      /
//!       child               the leases of a forked child
//!         |
//!      threads              starts the two below
//!      /      \
//!   monitor <- copier       one thread sees that a lease is broken, the other copies the bytes and releases it
//!              /    \
//!          copy    detach   how a read lease and a write lease are released
//!              \    /
//!   table, space, deadline, time
//! ```

mod child;
mod children;
pub(crate) mod copier;
mod copy;
mod deadline;
mod detach;
mod monitor;
pub(crate) mod read;
mod space;
mod table;
pub(crate) mod threads;
mod time;
pub(crate) mod write;
