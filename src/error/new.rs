//! One constructor for each variant; code outside of `error/` does not spell out the fields.

use super::text::{
    CREATE_FILE, OPEN_DIRECTORY, OPEN_FOR_WRITING, OPEN_IN_STICKY_DIRECTORY, OPEN_READ_WRITE,
};
use super::{Error, Tried};
use crate::reason::Reason;
use std::io;
use std::path::{Path, PathBuf};

impl Error {
    /// A failed system call, or an operation of several.
    pub(crate) fn os(operation: &'static str, path: Option<&Path>, source: io::Error) -> Self {
        Error::Os {
            operation,
            len: None,
            path: owned(path),
            source,
        }
    }

    /// A failed open(2) of a file for reading and writing.
    pub(crate) fn open_read_write(path: Option<&Path>, source: io::Error) -> Self {
        Error::open(OPEN_READ_WRITE, path, source)
    }

    /// A failed open(2) of a file for writing.
    pub(crate) fn open_for_writing(path: Option<&Path>, source: io::Error) -> Self {
        Error::open(OPEN_FOR_WRITING, path, source)
    }

    /// A failed open(2) of the directory of a file.
    pub(crate) fn open_directory(path: Option<&Path>, source: io::Error) -> Self {
        Error::os(OPEN_DIRECTORY, path, source)
    }

    /// A failed open(2) of a new file, with or without a name, in the directory of `path`.
    pub(crate) fn create_file(path: Option<&Path>, source: io::Error) -> Self {
        Error::open(CREATE_FILE, path, source)
    }

    /// An open(2) with `O_CREAT` of what another user has put into a sticky directory.
    pub(crate) fn open_in_sticky_directory(path: Option<&Path>, source: io::Error) -> Self {
        Error::open(OPEN_IN_STICKY_DIRECTORY, path, source)
    }

    /// The purpose is the operation where it says what is missing.
    fn open(purpose: &'static str, path: Option<&Path>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::IsADirectory => Error::is_directory(path),
            io::ErrorKind::PermissionDenied => Error::os(purpose, path, source),
            _ => Error::os("open", path, source),
        }
    }

    pub(crate) fn not_mappable(path: Option<&Path>, what: &'static str) -> Self {
        Error::NotMappable {
            path: owned(path),
            what,
            reason: None,
        }
    }

    pub(crate) fn not_a_regular_file(path: Option<&Path>) -> Self {
        let what =
            "it is not a regular file; Snapshot can read its bytes, and Draft can write to it";
        Error::not_mappable(path, what)
    }

    pub(crate) fn not_mapped(path: Option<&Path>, reason: Reason) -> Self {
        Error::NotMappable {
            path: owned(path),
            what: reason.as_str(),
            reason: Some(reason),
        }
    }

    pub(crate) fn no_room(path: Option<&Path>, len: u64, tried: Tried) -> Self {
        if tried.is_stopped {
            return Error::os("copy to an unnamed file", path, tried.into());
        }
        Error::NoRoom {
            path: owned(path),
            len,
            tried,
        }
    }

    pub(crate) fn is_directory(path: Option<&Path>) -> Self {
        Error::IsDirectory { path: owned(path) }
    }

    pub(crate) fn out_of_bounds(offset: u64, len: u64, size: u64) -> Self {
        Error::OutOfBounds {
            path: None,
            offset,
            len,
            size,
        }
    }

    pub(crate) fn too_large(path: Option<&Path>, limit: u64) -> Self {
        Error::TooLarge {
            path: owned(path),
            limit,
        }
    }

    /// More bytes than the address space has.
    pub(crate) fn too_large_to_address(path: Option<&Path>) -> Self {
        Error::too_large(path, isize::MAX.unsigned_abs() as u64)
    }

    pub(crate) fn busy(path: Option<&Path>, why: &'static str) -> Self {
        Error::Busy {
            path: owned(path),
            why,
        }
    }

    /// A call that would wait for an `Exclusive` of this process.
    pub(crate) fn is_edited_here(path: Option<&Path>) -> Self {
        let why = "this process has it open as an Exclusive; that has to be closed first";
        Error::busy(path, why)
    }

    /// A copy of one moment that could not be made.
    pub(crate) fn is_written(path: Option<&Path>) -> Self {
        Error::busy(path, "it was written to while it was read")
    }

    pub(crate) fn unprotectable(path: Option<&Path>, why: &'static str) -> Self {
        Error::Unprotectable {
            path: owned(path),
            why,
        }
    }

    pub(crate) fn unsealable(path: Option<&Path>, why: &'static str) -> Self {
        Error::Unsealable {
            path: owned(path),
            why,
        }
    }

    pub(crate) fn lease_lost(path: Option<&Path>) -> Self {
        Error::LeaseLost { path: owned(path) }
    }

    pub(crate) fn pages_lost(path: Option<&Path>) -> Self {
        Error::PagesLost { path: owned(path) }
    }

    pub(crate) fn too_small(path: Option<&Path>, needed: u64, size: u64) -> Self {
        Error::TooSmall {
            path: owned(path),
            needed,
            size,
        }
    }

    pub(crate) fn wrong_size(path: Option<&Path>, size: u64, multiple_of: usize) -> Self {
        Error::WrongSize {
            path: owned(path),
            size,
            multiple_of,
        }
    }

    pub(crate) fn misaligned(value: u64, align: usize) -> Self {
        Error::Misaligned {
            path: None,
            value,
            align,
        }
    }

    pub(crate) fn address_taken(address: usize) -> Self {
        Error::AddressTaken { address }
    }

    pub(crate) fn not_shared() -> Self {
        Error::NotShared
    }

    pub(crate) fn multi_threaded(threads: usize) -> Self {
        Error::MultiThreaded { threads }
    }

    pub(crate) fn child_failed(status: std::process::ExitStatus) -> Self {
        Error::ChildFailed { status }
    }

    pub(crate) fn wrong_process(path: Option<&Path>) -> Self {
        Error::WrongProcess { path: owned(path) }
    }

    pub(crate) fn unsupported(path: Option<&Path>, what: &'static str) -> Self {
        Error::Unsupported {
            path: owned(path),
            what,
        }
    }
}

fn owned(path: Option<&Path>) -> Option<PathBuf> {
    path.map(Path::to_path_buf)
}
