//! Bytes of a file where nobody can change them.

mod memory;

pub(crate) use memory::Memory;
