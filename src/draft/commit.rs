//! Writes a draft out, and gives it back if that fails.

use super::{CommitError, Draft};
use crate::error::Result;
use std::path::Path;

impl Draft {
    /// Makes the file durable, then visible under its path, in one step; what is not a regular file gets the bytes
    /// written out. When it returns, the file survives a loss of power, unless
    /// [`durable`](super::DraftOptions::durable) is false.
    ///
    /// # Errors
    /// [`CommitError`], which gives the draft back. The path is then as it was and no trace is left, with three
    /// exceptions: the last step, an `fsync` of the directory, comes when the file is visible already; a pipe may have
    /// got a part of the bytes (`EPIPE` if it has no reader, without a signal); a file that is written
    /// [in place](crate::Replace::InPlace) may be a mixture.
    ///
    /// # Examples
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let path = directory.path().join("number");
    /// std::fs::write(&path, "1")?;
    /// let mut draft = stillmap::Draft::create(&path, 1)?;
    /// draft[0] = b'2';
    /// draft.commit()?;
    /// assert_eq!(std::fs::read(&path)?, b"2");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("persist", "fsync", "rename"))]
    #[allow(clippy::result_large_err, reason = "the draft is given back")]
    pub fn commit(mut self) -> std::result::Result<(), CommitError> {
        self.try_commit()
            .map_err(|error| CommitError { error, draft: self })
    }

    /// The same under another path: one whose name is known only now (that of a hash), or after [`commit`](Draft::commit)
    /// has failed. The path of `create` is left alone. In the same directory it costs nothing more; elsewhere space is
    /// reserved, and a draft over its memory limit is copied.
    ///
    /// # Errors
    /// As [`create`](Draft::create) and [`commit`](Draft::commit).
    ///
    /// # Examples
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let mut draft = stillmap::Draft::create(directory.path().join("unused"), 4)?;
    /// draft.copy_from_slice(b"blob");
    /// let name = directory.path().join(format!("{:02x}", draft[0]));
    /// draft.commit_to(&name)?;
    /// assert_eq!(std::fs::read(name)?, b"blob");
    /// assert!(!directory.path().join("unused").exists());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[allow(clippy::result_large_err, reason = "the draft is given back")]
    pub fn commit_to<P: AsRef<Path>>(mut self, path: P) -> std::result::Result<(), CommitError> {
        self.move_to(path.as_ref())
            .and_then(|()| self.try_commit())
            .map_err(|error| CommitError { error, draft: self })
    }

    fn move_to(&mut self, path: &Path) -> Result<()> {
        self.check_process()?;
        self.trim()?;
        let _no_fork = self.release_to_children();
        let moved = self.output.move_to(path, &mut self.store, &self.options);
        self.keep_from_children();
        moved
    }

    fn try_commit(&mut self) -> Result<()> {
        self.check_process()?;
        self.trim()?;
        let _no_fork = self.release_to_children();
        let done = self.output.commit(&mut self.store, &self.options);
        if done.is_err() {
            // Less than before, if the file was visible when the last step failed, and there was no memory.
            self.len = self.len.min(self.store.len());
            self.keep_from_children();
        }
        done
    }
}
