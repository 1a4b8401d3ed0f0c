//! Inputs: an open descriptor, its window, and copies of its bytes.

mod copy;
mod request;
pub(crate) mod settled;
mod source;
mod stream;
mod unnamed;
mod window;

pub(crate) use copy::{Copied, Progress, copy, stat_with_size, wait_for_write};
pub(crate) use request::{Access, Request};
pub(crate) use source::Source;
pub(crate) use stream::{Offset, read_to_end};
pub(crate) use unnamed::{clone_of, copy_into};
pub(crate) use window::Window;
