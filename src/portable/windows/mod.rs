//! What Windows can do beyond `std`: files that cannot be written as long as they are mapped, and temporary files that
//! are gone if the process is.

mod locked;
mod system;
mod temporary;
mod writable;

pub(super) use locked::{Locked, View, is_stream};
pub(super) use temporary::Temporary;
pub(super) use writable::Writable;
