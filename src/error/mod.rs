//! The error type.

mod new;
pub(crate) mod text;

use crate::reason::Reason;
use crate::sys;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use text::{Bytes, Colon, On, hint, shown};
pub(crate) use text::{COPY_RIGHTS, REPLACE};

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
///
/// The message names the path, where there is one, and the operation or the reason, and says what to do where that is
/// known; the cause is
/// [`source()`](std::error::Error::source) and is never repeated in the message.
/// For a descriptor the path is what `/proc/self/fd` calls it.
///
/// # Examples
/// ```
/// let error = stillmap::Snapshot::open("/no/such/file").unwrap_err();
/// assert_eq!(error.to_string(), "open failed on /no/such/file");
/// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
/// assert!(std::error::Error::source(&error).is_some());
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed.
    #[non_exhaustive]
    #[error(
        "{operation} failed{}{}{}",
        On(path),
        Bytes(*len),
        hint(operation, path, source)
    )]
    Os {
        /// The operation: the name of a system call, or the purpose of several.
        operation: &'static str,
        /// The bytes of memory that the operation was to give, where it was for that.
        len: Option<NonZeroUsize>,
        /// The file of the operation.
        path: Option<PathBuf>,
        /// The cause, with its errno.
        source: io::Error,
    },
    /// The input can only be read or copied, and the options forbid that.
    #[non_exhaustive]
    #[error("cannot be mapped{}: {what}", Colon(path))]
    NotMappable {
        /// The input.
        path: Option<PathBuf>,
        /// Why it cannot be mapped.
        what: &'static str,
        /// The reason as a value, for a file that was to be mapped for reading.
        reason: Option<Reason>,
    },
    /// A copy fits neither into memory nor on any disk that was tried.
    #[non_exhaustive]
    #[error("no room for a copy of {len} bytes{}: {tried}", Colon(path))]
    NoRoom {
        /// The input.
        path: Option<PathBuf>,
        /// Bytes to be copied.
        len: u64,
        /// The directories in which an unnamed file was tried.
        tried: Tried,
    },
    /// The path is a directory.
    #[non_exhaustive]
    #[error("is a directory{}", Colon(path))]
    IsDirectory {
        /// The directory.
        path: Option<PathBuf>,
    },
    /// A range does not lie inside the value or the file.
    #[non_exhaustive]
    #[error(
        "{len} bytes at offset {offset} are outside of {size} bytes{}",
        Colon(path)
    )]
    OutOfBounds {
        /// The file, or `None` for a range of a value in memory.
        path: Option<PathBuf>,
        /// First byte of the range.
        offset: u64,
        /// Length of the range, in bytes.
        len: u64,
        /// Length of the value or file, in bytes.
        size: u64,
    },
    /// More bytes than the limit, or than fit in the address space.
    #[non_exhaustive]
    #[error("more than the limit of {limit} bytes{}", Colon(path))]
    TooLarge {
        /// The input, or `None` for a length that the caller gave.
        path: Option<PathBuf>,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Another process, or this one, has the file open or mapped.
    #[non_exhaustive]
    #[error("is busy{}: {why}", Colon(path))]
    Busy {
        /// The file.
        path: Option<PathBuf>,
        /// What has it open, as far as that is known, and what can be done.
        why: &'static str,
    },
    /// Other writers cannot be kept away from the file.
    #[non_exhaustive]
    #[error("cannot be protected from other writers{}: {why}", Colon(path))]
    Unprotectable {
        /// The file.
        path: Option<PathBuf>,
        /// Why not.
        why: &'static str,
    },
    /// The memory cannot be sealed.
    #[non_exhaustive]
    #[error("cannot be sealed{}: {why}", Colon(path))]
    Unsealable {
        /// The memfd or file.
        path: Option<PathBuf>,
        /// Why not.
        why: &'static str,
    },
    /// The write lease was lost; later stores are in memory only.
    #[non_exhaustive]
    #[error(
        "the write lease was lost; later changes were not saved{}",
        Colon(path)
    )]
    LeaseLost {
        /// The file.
        path: Option<PathBuf>,
    },
    /// The file lost pages under its mapping: it was truncated, or the device failed.
    #[non_exhaustive]
    #[error("the file lost pages under its mapping{}", Colon(path))]
    PagesLost {
        /// The file.
        path: Option<PathBuf>,
    },
    /// The file is shorter than the value to be mapped from it.
    #[non_exhaustive]
    #[error("has {size} bytes, and {needed} are needed{}", Colon(path))]
    TooSmall {
        /// The file.
        path: Option<PathBuf>,
        /// Bytes needed.
        needed: u64,
        /// Size of the file, in bytes.
        size: u64,
    },
    /// The size of the file is not a multiple of the size of one element.
    #[non_exhaustive]
    #[error(
        "has {size} bytes, which is not a multiple of {multiple_of}{}",
        Colon(path)
    )]
    WrongSize {
        /// The file.
        path: Option<PathBuf>,
        /// Size of the file, in bytes.
        size: u64,
        /// Size of one element, in bytes.
        multiple_of: usize,
    },
    /// An address, an offset or a length is not aligned.
    #[non_exhaustive]
    #[error("{value:#x} is not a multiple of {align}{}", Colon(path))]
    Misaligned {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// The address, offset or length, in bytes.
        value: u64,
        /// The alignment, in bytes.
        align: usize,
    },
    /// The bytes are not in shared memory that this process may pass to a forked child.
    #[error("not in an Anonymous::shared that this process may pass to a child")]
    NotShared,
    /// The value belongs to the process that made it; a forked child cannot use its copy.
    #[non_exhaustive]
    #[error(
        "belongs to the process that made it, not to its forked child{}",
        Colon(path)
    )]
    WrongProcess {
        /// The file, where there is one.
        path: Option<PathBuf>,
    },
    /// A process with other threads cannot be forked safely.
    #[non_exhaustive]
    #[error("cannot fork safely beside other threads ({threads})")]
    MultiThreaded {
        /// Threads beside the calling one.
        threads: usize,
    },
    /// A forked child ended with an error or by a signal.
    #[non_exhaustive]
    #[error("a child failed: {status}")]
    ChildFailed {
        /// Its exit code or signal.
        status: std::process::ExitStatus,
    },
    /// Another mapping is at the requested address.
    #[non_exhaustive]
    #[error("address {address:#x} is in use")]
    AddressTaken {
        /// The requested address.
        address: usize,
    },
    /// The platform or the kernel lacks the feature.
    #[non_exhaustive]
    #[error("{what} is not supported here{}", Colon(path))]
    Unsupported {
        /// The file, where there is one.
        path: Option<PathBuf>,
        /// The missing feature.
        what: &'static str,
    },
}

/// The `path` field of the variants that have one, by the kind of reference that `$error` is.
macro_rules! path_field {
    ($error:expr) => {
        match $error {
            Error::Os { path, .. }
            | Error::NotMappable { path, .. }
            | Error::NoRoom { path, .. }
            | Error::IsDirectory { path }
            | Error::OutOfBounds { path, .. }
            | Error::TooLarge { path, .. }
            | Error::Busy { path, .. }
            | Error::Unprotectable { path, .. }
            | Error::Unsealable { path, .. }
            | Error::LeaseLost { path }
            | Error::PagesLost { path }
            | Error::TooSmall { path, .. }
            | Error::WrongSize { path, .. }
            | Error::Misaligned { path, .. }
            | Error::WrongProcess { path }
            | Error::Unsupported { path, .. } => Some(path),
            Error::NotShared
            | Error::MultiThreaded { .. }
            | Error::ChildFailed { .. }
            | Error::AddressTaken { .. } => None,
        }
    };
}

impl Error {
    /// Adds a path, if the variant has the field and it is empty.
    pub(crate) fn with_path(mut self, name: impl FnOnce() -> Option<PathBuf>) -> Self {
        if let Some(path @ None) = path_field!(&mut self) {
            *path = name();
        }
        self
    }

    /// Adds the length of the memory that a system call was to give.
    pub(crate) fn with_len(mut self, bytes: usize) -> Self {
        if let Error::Os { len, .. } = &mut self {
            *len = NonZeroUsize::new(bytes);
        }
        self
    }

    /// The kind of the [`std::io::Error`] that this converts into.
    ///
    /// # Examples
    /// ```
    /// let error = stillmap::Snapshot::open("no such file").unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// ```
    pub fn kind(&self) -> io::ErrorKind {
        use io::ErrorKind as K;
        match self {
            Error::Os { source, .. } => source.kind(),
            Error::NoRoom { tried, .. } => tried.cause().map_or(K::StorageFull, io::Error::kind),
            Error::NotMappable { .. }
            | Error::Unprotectable { .. }
            | Error::Unsealable { .. }
            | Error::Unsupported { .. } => K::Unsupported,
            Error::IsDirectory { .. } => K::IsADirectory,
            Error::OutOfBounds { .. } | Error::Misaligned { .. } | Error::NotShared => {
                K::InvalidInput
            }
            Error::WrongSize { .. } => K::InvalidData,
            Error::TooLarge { .. } => K::FileTooLarge,
            Error::Busy { .. } => K::ResourceBusy,
            Error::TooSmall { .. } => K::UnexpectedEof,
            Error::AddressTaken { .. } => K::AlreadyExists,
            Error::LeaseLost { .. }
            | Error::PagesLost { .. }
            | Error::WrongProcess { .. }
            | Error::MultiThreaded { .. }
            | Error::ChildFailed { .. } => K::Other,
        }
    }

    /// The errno, if a system call failed; `EISDIR` for [`IsDirectory`](Error::IsDirectory); for [`NoRoom`](Error::NoRoom) that of
    /// the last directory without space, or of the last one if space lacked in none.
    ///
    /// # Examples
    /// ```
    /// let error = stillmap::Snapshot::open("no such file").unwrap_err();
    /// assert_eq!(error.raw_os_error(), Some(2)); // ENOENT
    /// ```
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Error::Os { source, .. } => source.raw_os_error(),
            Error::NoRoom { tried, .. } => tried.cause()?.raw_os_error(),
            Error::IsDirectory { .. } => sys::EISDIR,
            _ => None,
        }
    }

    /// The file that the error is about, where it is known.
    ///
    /// # Examples
    /// ```
    /// let error = stillmap::Snapshot::open("no such file").unwrap_err();
    /// assert_eq!(error.path(), Some("no such file".as_ref()));
    /// ```
    pub fn path(&self) -> Option<&Path> {
        path_field!(self)?.as_deref()
    }

    /// The error that an [`io::Error`] was converted from, with its fields and errno.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Error;
    /// let io = std::io::Error::from(stillmap::Snapshot::open("no such file").unwrap_err());
    /// assert_eq!(io.to_string(), "open failed on no such file: No such file or directory (os error 2)");
    /// assert_eq!(Error::downcast_ref(&io).and_then(Error::raw_os_error), Some(2)); // ENOENT
    /// ```
    pub fn downcast_ref(error: &io::Error) -> Option<&Error> {
        let inner = error.get_ref()?.downcast_ref::<InIoError>()?;
        Some(&inner.0)
    }
}

/// The directories in which an unnamed file was tried, and why it failed in each.
///
/// # Examples
/// ```no_run
/// match stillmap::Snapshot::open("larger than memory and every disk") {
///     Err(stillmap::Error::NoRoom { tried, .. }) => {
///         for directory in tried.directories() {
///             println!("no space in {}", directory.display());
///         }
///     }
///     opened => println!("{} bytes", opened?.len()),
/// }
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct Tried {
    dirs: Vec<(PathBuf, io::Error)>,
    /// The last failure was not a lack of space.
    is_stopped: bool,
}

impl Tried {
    pub(crate) fn push(&mut self, dir: PathBuf, error: io::Error) {
        self.dirs.push((dir, error));
    }

    /// A failure that would repeat in every directory.
    pub(crate) fn stopped(dir: PathBuf, error: io::Error) -> Self {
        Tried {
            dirs: vec![(dir, error)],
            is_stopped: true,
        }
    }

    /// The directories, in the order in which they were tried.
    ///
    /// # Examples
    /// ```
    /// let has_tried_tmp = |tried: &stillmap::Tried| tried.directories().any(|dir| dir == "/tmp");
    /// # let _ = has_tried_tmp;
    /// ```
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().map(|(dir, _)| dir.as_path())
    }

    /// A lack of space if there was one: that a directory is not writable says less.
    fn cause(&self) -> Option<&io::Error> {
        let is_full = |error: &&io::Error| is_no_space(error);
        let errors = || self.dirs.iter().rev().map(|(_, error)| error);
        errors().find(is_full).or(errors().next())
    }
}

/// The disk, the quota or the limit on file sizes has no room.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::StorageFull | K::QuotaExceeded | K::FileTooLarge
    )
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it is too large for memory")?;
        for (dir, error) in &self.dirs {
            write!(f, "; {}: {error}", shown(dir))?;
        }
        Ok(())
    }
}

/// The failure in the directory that was tried last.
impl From<Tried> for io::Error {
    fn from(mut tried: Tried) -> Self {
        let last = tried.dirs.pop().map(|(_, error)| error);
        last.unwrap_or_else(|| io::ErrorKind::StorageFull.into())
    }
}

/// Keeps the kind; the text names the operation, the path and the cause. [`Error::downcast_ref`] returns the original.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        io::Error::new(error.kind(), InIoError(error))
    }
}

/// An [`Error`] inside an [`io::Error`]. Its text includes the cause, since few users of `io::Error` print the source.
#[derive(Debug)]
struct InIoError(Error);

impl fmt::Display for InIoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0, self.0.raw_os_error()) {
            (Error::Os { source, .. }, _) => write!(f, "{}: {source}", self.0),
            (error, Some(errno)) => write!(f, "{error} ({})", io::Error::from_raw_os_error(errno)),
            (error, None) => error.fmt(f),
        }
    }
}

impl std::error::Error for InIoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

#[cfg(all(test, target_os = "linux"))]
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
    fn io_error_keeps_kind_operation_path_and_errno() {
        let cause = io::Error::from_raw_os_error(libc::EACCES);
        let error = io::Error::from(Error::os("open", Some(Path::new("/a/b")), cause));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().starts_with("open failed on /a/b: "));
        let inner = Error::downcast_ref(&error);
        assert_eq!(inner.and_then(Error::raw_os_error), Some(libc::EACCES));
        let directory = Error::is_directory(None);
        assert_eq!(directory.raw_os_error(), Some(libc::EISDIR));
        assert_eq!(
            io::Error::from(directory).kind(),
            io::ErrorKind::IsADirectory
        );
    }

    #[test]
    fn a_message_gives_a_hint_where_there_is_one() {
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
