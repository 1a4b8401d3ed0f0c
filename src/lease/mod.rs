//! File leases: the kernel blocks whoever opens a leased file, until the lease is released.

pub(crate) mod monitor;
pub(crate) mod read;
pub(crate) mod write;
