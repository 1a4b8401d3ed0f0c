//! Against a file that changes under its mapping.

pub(crate) mod keeper;
pub(crate) mod lease;
pub(crate) mod sigbus;
pub(crate) mod write_lease;
