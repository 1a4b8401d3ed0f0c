//! How a draft is made.

use super::Draft;
use crate::error::Result;
use crate::sys::limits;
use std::path::Path;

/// So many bytes are kept in memory without asking how much there is.
const ALWAYS_IN_MEMORY: usize = 1 << 20;

/// How to make a [`Draft`]; made by [`Draft::options`].
///
/// # Examples
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("sparse");
/// let mut draft = stillmap::Draft::options().sparse(true).mode(0o600).create(&path, 1 << 30)?;
/// draft[1 << 29] = 7;
/// draft.commit()?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct DraftOptions {
    pub(super) sparse: bool,
    pub(super) create_new: bool,
    pub(super) mode: Option<u32>,
    pub(super) sync: bool,
    pub(super) memory_limit: Option<u64>,
}

impl Default for DraftOptions {
    fn default() -> Self {
        DraftOptions {
            sparse: false,
            create_new: false,
            mode: None,
            sync: true,
            memory_limit: None,
        }
    }
}

impl DraftOptions {
    /// Whether pages that were never touched become holes: they take no space. Nothing is reserved then, so that a full
    /// disk is an error of [`commit`](Draft::commit), and what is touched is kept in memory, whatever the memory limit.
    /// Default false.
    ///
    /// # Examples
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("list");
    /// use std::os::unix::fs::MetadataExt;
    /// let mut draft = stillmap::Draft::options().sparse(true).create(&path, 1 << 30)?;
    /// draft[1 << 29] = 7;
    /// draft.commit()?;
    /// assert_eq!(path.metadata()?.len(), 1 << 30);
    /// assert!(path.metadata()?.blocks() * 512 < 1 << 20);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn sparse(mut self, yes: bool) -> Self {
        self.sparse = yes;
        self
    }

    /// Whether the path must not exist, also not as a dangling link, at `create` and still not at `commit`; of two
    /// that try, one gets `EEXIST`. Default false.
    ///
    /// # Examples
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("list");
    /// std::fs::write(&path, "here")?;
    /// let error = stillmap::Draft::options().create_new(true).create(&path, 4).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "O_EXCL")]
    pub fn create_new(mut self, yes: bool) -> Self {
        self.create_new = yes;
        self
    }

    /// The mode of the file, without the bits of the umask, whether it is new or replaces another one. Default: that
    /// of the file it replaces, or else 0666 without the bits of the umask.
    ///
    /// # Examples
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("list");
    /// use std::os::unix::fs::PermissionsExt;
    /// stillmap::Draft::options().mode(0o600).create(&path, 4)?.commit()?;
    /// assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o600);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Whether `commit` waits until the file is safe from a loss of power; default true. Without it the file is just as
    /// whole for everybody who opens it, but a loss of power soon after may leave the old file, or, on some file
    /// systems, an empty one.
    ///
    /// # Examples
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("list");
    /// let mut draft = stillmap::Draft::options().sync(false).create(&path, 2)?;
    /// draft.copy_from_slice(b"ab");
    /// draft.commit()?;
    /// assert_eq!(std::fs::read(&path)?, b"ab");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn sync(mut self, yes: bool) -> Self {
        self.sync = yes;
        self
    }

    /// The most bytes to keep in memory; a longer draft lives in its unnamed file from the start. That needs a file
    /// system where stores into reserved space cannot fail (ext4, xfs, tmpfs); on the others a longer draft is
    /// [`TooLarge`](crate::Error::TooLarge). Default: half of the memory that is available.
    ///
    /// # Examples
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("list");
    /// let mut draft = stillmap::Draft::options().memory_limit(8 << 20).create(&path, 2)?;
    /// draft.copy_from_slice(b"ab");
    /// draft.commit()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Makes the draft: [`Draft::create`].
    ///
    /// # Errors
    /// As [`Draft::create`].
    ///
    /// # Examples
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("list");
    /// let draft = stillmap::Draft::options().create(&path, 4)?;
    /// assert!(!path.exists()); // until it is committed
    /// draft.commit()?;
    /// assert_eq!(std::fs::read(&path)?, [0; 4]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn create<P: AsRef<Path>>(self, path: P, len: usize) -> Result<Draft> {
        Draft::new(self, path.as_ref(), len)
    }

    pub(super) fn fits_in_memory(&self, len: usize) -> bool {
        match self.memory_limit {
            Some(limit) => len as u64 <= limit,
            None => len <= ALWAYS_IN_MEMORY || len as u64 <= self.memory_limit_or_default(),
        }
    }

    pub(super) fn memory_limit_or_default(&self) -> u64 {
        let default = || limits::available_memory() / 2;
        self.memory_limit.unwrap_or_else(default)
    }
}
