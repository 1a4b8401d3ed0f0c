//! Against bytes that change under their mapping.

pub(crate) mod keeper;
pub(crate) mod lease;
pub(crate) mod sigbus;
pub(crate) mod withheld;
pub(crate) mod write_lease;
