//! In place of share modes: nothing keeps others from writing to a file.

use crate::error::{Error, Result};
use crate::reason::Reason;
use std::fs::File;
use std::path::Path;

/// No process could be kept from writing to the file.
pub(super) fn lock(_file: &File) -> std::result::Result<File, Reason> {
    Err(Reason::Platform)
}

/// No process could be kept from opening the file.
pub(super) fn open_alone(path: &Path) -> Result<File> {
    let what = "an exclusive mapping of a file";
    Err(Error::unsupported(Some(path), what))
}
