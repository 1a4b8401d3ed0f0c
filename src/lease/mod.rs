//! File leases: while one is held, the kernel blocks a process that opens the file for writing.
//!
//! ```text
//!   read      write         the leased mapping of a snapshot, and of an `Exclusive`
//!      \      /
//!       child               the leases of a forked child; `children`: what its parent waits for
//!         |
//!      threads              starts the threads of the next two
//!      /      \
//!   monitor <- copier       one thread notices that a lease is broken, the other copies the bytes and releases it
//!              /    \
//!          copy    detach   how a broken read lease and a broken write lease are handled
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
