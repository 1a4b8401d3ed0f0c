//! What can go wrong, in one enum; it knows no other room of the crate.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// The message names the operation and the path, and says what to do where that is known; the cause is
/// [`source()`](std::error::Error::source) and is never repeated in the message.
/// For a descriptor the path is what `/proc/self/fd` calls it.
///
/// # Examples
/// ```
/// let error = stillmap::open("/no/such/file").unwrap_err();
/// assert_eq!(error.to_string(), "open failed on /no/such/file");
/// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
/// assert!(std::error::Error::source(&error).is_some());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a system call.
    #[error("{call} failed{}{}", On(path), hint(call, source))]
    Os {
        /// The system call, as its man page names it; or, of several, what they were to do.
        call: &'static str,
        /// What it was tried on.
        path: Option<PathBuf>,
        /// The cause, with its errno.
        source: io::Error,
    },
    /// The input can only be read, and [`must_map`](crate::SnapshotOptions::must_map) forbids that.
    #[error("cannot be mapped{}: {what}", Colon(path))]
    NotMappable {
        /// What cannot be mapped.
        path: Option<PathBuf>,
        /// What it is, or what it lacks.
        what: &'static str,
    },
    /// A directory has no bytes to give.
    #[error("is a directory{}", Colon(path))]
    IsDirectory {
        /// The directory.
        path: Option<PathBuf>,
    },
    /// A range does not lie inside what there is.
    #[error("{len} bytes at offset {offset} lie outside the {size} bytes there are")]
    OutOfBounds {
        /// First byte asked for.
        offset: u64,
        /// How many bytes were asked for.
        len: u64,
        /// How many there are.
        size: u64,
    },
    /// More bytes than the limit allows, or than an address space can hold.
    #[error("more than the limit of {limit} bytes{}", Colon(path))]
    TooLarge {
        /// What was being read, or `None` for a length given by the caller.
        path: Option<PathBuf>,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Somebody has the file open, or the memfd mapped, so it cannot be had exclusively.
    #[error("somebody else has it open or mapped{}", Colon(path))]
    Busy {
        /// The file.
        path: Option<PathBuf>,
    },
    /// Nobody can keep the promise that the type needs for this file.
    #[error("cannot be protected from other writers{}: {why}", Colon(path))]
    Unprotectable {
        /// The file.
        path: Option<PathBuf>,
        /// Why not.
        why: &'static str,
    },
    /// The write lease was taken back; stores made since are in memory only.
    #[error(
        "the lease was taken back before the changes were saved{}",
        Colon(path)
    )]
    LeaseLost {
        /// The file.
        path: Option<PathBuf>,
    },
    /// The file lost pages under its mapping: it was truncated, or the device failed.
    #[error("the file lost pages under its mapping{}", Colon(path))]
    Faulted {
        /// The file.
        path: Option<PathBuf>,
    },
    /// The file is shorter than what is to be seen in it.
    #[error("{needed} bytes are needed, there are {size}{}", Colon(path))]
    TooSmall {
        /// The file.
        path: Option<PathBuf>,
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        size: u64,
    },
    /// An address or a length is not the multiple that it has to be.
    #[error("{value:#x} is not a multiple of {align}")]
    Misaligned {
        /// The address or length, in bytes.
        value: u64,
        /// What it has to be a multiple of, in bytes.
        align: usize,
    },
    /// A process with other threads cannot be forked safely.
    #[error("cannot fork safely beside other threads: there are {threads}")]
    MultiThreaded {
        /// Threads beside the calling one.
        threads: usize,
    },
    /// A forked child did not end well.
    #[error("a child failed: {status}")]
    ChildFailed {
        /// How it ended: exit code or signal.
        status: std::process::ExitStatus,
    },
    /// Something is mapped already where the mapping had to be.
    #[error("address {address:#x} is taken")]
    AddressTaken {
        /// The address asked for.
        address: usize,
    },
}

impl Error {
    /// The one place that makes an [`Error::Os`].
    pub(crate) fn os(call: &'static str, path: Option<&Path>, source: io::Error) -> Self {
        Error::Os {
            call,
            path: path.map(Path::to_path_buf),
            source,
        }
    }

    /// The same with a path, unless it names one.
    pub(crate) fn on(self, name: impl FnOnce() -> Option<PathBuf>) -> Self {
        match self {
            Error::Os {
                call,
                path: None,
                source,
            } => Error::Os {
                call,
                path: name(),
                source,
            },
            other => other,
        }
    }

    /// The kind that [`std::io::Error`] would have.
    ///
    /// # Examples
    /// ```
    /// let error = stillmap::open("no such file").unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// ```
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind as K;
        match self {
            Error::Os { source, .. } => source.kind(),
            Error::NotMappable { .. } | Error::Unprotectable { .. } => K::Unsupported,
            Error::IsDirectory { .. } => K::IsADirectory,
            Error::OutOfBounds { .. } | Error::Misaligned { .. } => K::InvalidInput,
            Error::TooLarge { .. } => K::FileTooLarge,
            Error::Busy { .. } => K::ResourceBusy,
            Error::TooSmall { .. } => K::UnexpectedEof,
            Error::AddressTaken { .. } => K::AlreadyExists,
            Error::LeaseLost { .. }
            | Error::Faulted { .. }
            | Error::MultiThreaded { .. }
            | Error::ChildFailed { .. } => K::Other,
        }
    }

    /// The errno, if the kernel gave one.
    ///
    /// # Examples
    /// ```
    /// let error = stillmap::open("no such file").unwrap_err();
    /// assert_eq!(error.raw_os_error(), Some(2)); // ENOENT
    /// ```
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Os { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Keeps the kind and, where there is one, the errno. With an errno that is all there is room for: the call and the path
/// are lost. `Box<dyn Error>` keeps them.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Os { source, .. } => source,
            other => io::Error::new(other.kind(), other),
        }
    }
}

/// An empty path can be seen, too.
fn shown(path: &Path) -> std::path::Display<'_> {
    match path.as_os_str().is_empty() {
        true => Path::new("\"\"").display(),
        false => path.display(),
    }
}

/// ` on PATH`, or nothing.
struct On<'a>(&'a Option<PathBuf>);

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, " on {}", shown(path)),
            None => Ok(()),
        }
    }
}

/// `: PATH`, or nothing.
struct Colon<'a>(&'a Option<PathBuf>);

impl fmt::Display for Colon<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, ": {}", shown(path)),
            None => Ok(()),
        }
    }
}

/// What the user can do about it, where we know it.
fn hint(call: &str, source: &io::Error) -> &'static str {
    match (call, source.raw_os_error()) {
        ("mmap" | "mremap", Some(libc::ENOMEM)) => {
            "; see vm.max_map_count, vm.overcommit_memory and ulimit -v"
        }
        ("mmap (huge pages)", Some(libc::ENOMEM)) => "; reserve huge pages with vm.nr_hugepages",
        ("mlock", Some(libc::ENOMEM | libc::EAGAIN | libc::EPERM)) => {
            "; raise RLIMIT_MEMLOCK (ulimit -l)"
        }
        (_, Some(libc::EMFILE)) => "; raise RLIMIT_NOFILE (ulimit -n)",
        (_, Some(libc::EFBIG)) => "; see RLIMIT_FSIZE (ulimit -f)",
        ("read" | "pread", Some(libc::EBADF)) => "; it is not open for reading",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_message_names_operation_and_path_and_leaves_the_cause_to_source() {
        let cause = io::Error::from_raw_os_error(libc::ENOSPC);
        let text = cause.to_string();
        let error = Error::os("fallocate", Some(Path::new("/a/b")), cause);
        assert_eq!(error.to_string(), "fallocate failed on /a/b");
        assert_eq!(error.source().map(ToString::to_string), Some(text));
        let directory = Error::IsDirectory {
            path: Some(PathBuf::new()),
        };
        assert_eq!(directory.to_string(), "is a directory: \"\"");
    }

    #[test]
    fn io_error_keeps_kind_and_errno() {
        let error = Error::os("open", None, io::Error::from_raw_os_error(libc::EACCES));
        let io = io::Error::from(error);
        assert_eq!(io.raw_os_error(), Some(libc::EACCES));
        let io = io::Error::from(Error::IsDirectory { path: None });
        assert_eq!(io.kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn advice_stands_where_we_have_some() {
        let error = Error::os("mmap", None, io::Error::from_raw_os_error(libc::ENOMEM));
        assert!(error.to_string().contains("vm.max_map_count"));
    }

    #[test]
    fn it_can_cross_threads_and_is_small() {
        fn crosses<T: Send + Sync + 'static>() {}
        crosses::<Error>();
        assert!(std::mem::size_of::<Error>() <= 64);
    }
}
