//! The functions of `share_mode`, for platforms without share modes: a file cannot be protected.

use crate::error::{Error, Result};
use crate::reason::Reason;
use std::fs::File;
use std::path::Path;

/// Fails: other processes cannot be kept from writing to the file.
pub(super) fn lock(_file: &File) -> std::result::Result<File, Reason> {
    Err(Reason::Platform)
}

/// Fails: other processes cannot be kept from opening the file.
pub(super) fn open_alone(path: &Path) -> Result<File> {
    let what = "an exclusive mapping of a file";
    Err(Error::unsupported(Some(path), what))
}
