//! What Windows can do beyond `std`: files that cannot be written as long as they are mapped, temporary files that are gone
//! if the process is, memory in whole pages, and memory that processes share.

mod locked;
mod pages;
mod section;
mod system;
mod temporary;
mod writable;

pub(super) use locked::{Locked, View, is_stream};
pub(super) use pages::{allocate, has_own_pages, lock, prefetch, release, residency, unlock};
pub(super) use section::Section;
pub(super) use temporary::Temporary;
pub(super) use writable::Writable;
