//! A commit that failed, with the draft.

use super::Draft;
use crate::error::Error;
use std::fmt;
use std::io;

/// The error of [`Draft::commit`], and the draft, which lost nothing: it can be committed again, to another path
/// ([`Draft::commit_to`]), or be written elsewhere.
///
/// `?` converts it into [`Error`] and [`io::Error`]; the draft is dropped then.
///
/// # Examples
/// ```
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("file");
/// let options = stillmap::Draft::options().create_new(true);
/// let mut draft = options.create(&path, 5)?;
/// draft.copy_from_slice(b"hours");
/// std::fs::write(&path, "of another program")?;
/// let failed = draft.commit().unwrap_err();
/// assert_eq!(failed.error.kind(), std::io::ErrorKind::AlreadyExists);
/// failed.draft.commit_to(directory.path().join("other"))?;
/// assert_eq!(std::fs::read(directory.path().join("other"))?, b"hours");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct CommitError {
    /// Why it failed.
    pub error: Error,
    /// The draft as it was.
    pub draft: Draft,
}

impl CommitError {
    /// The kind of the error: [`Error::kind`].
    ///
    /// # Examples
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let draft = stillmap::Draft::create(directory.path().join("file"), 5)?;
    /// let failed = draft.commit_to(directory.path()).unwrap_err();
    /// assert_eq!(failed.kind(), std::io::ErrorKind::IsADirectory);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn kind(&self) -> io::ErrorKind {
        self.error.kind()
    }

    /// The errno, if a system call failed: [`Error::raw_os_error`].
    ///
    /// # Examples
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let draft = stillmap::Draft::create(directory.path().join("file"), 5)?;
    /// let failed = draft.commit_to(directory.path().join("missing/file")).unwrap_err();
    /// assert_eq!(failed.raw_os_error(), Some(2)); // ENOENT
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn raw_os_error(&self) -> Option<i32> {
        self.error.raw_os_error()
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl From<CommitError> for Error {
    fn from(failed: CommitError) -> Self {
        failed.error
    }
}

impl From<CommitError> for io::Error {
    fn from(failed: CommitError) -> Self {
        failed.error.into()
    }
}
