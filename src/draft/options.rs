//! How a draft is created.

use crate::budget;
use crate::enums::Replace;
use crate::options::setters;

/// How to create a [`Draft`](super::Draft); made by [`Draft::options`](super::Draft::options).
///
/// # Examples
/// ```
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("sparse");
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
    pub(super) replace: Replace,
    pub(super) require_attributes: bool,
    pub(super) mode: Option<u32>,
    pub(super) durable: bool,
    memory_limit: Option<u64>,
}

impl Default for DraftOptions {
    fn default() -> Self {
        DraftOptions {
            sparse: false,
            create_new: false,
            replace: Replace::Rename,
            require_attributes: false,
            mode: None,
            durable: true,
            memory_limit: None,
        }
    }
}

setters! {
    impl DraftOptions;

    /// Whether pages that were never written to become holes, which take no space. Nothing is reserved then: a full
    /// disk is an error of [`commit`](super::Draft::commit), and what is written is kept in memory, whatever the memory
    /// limit. It has no effect on a file that is written in place. Default false.
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("list");
    /// use std::os::unix::fs::MetadataExt;
    /// let mut draft = stillmap::Draft::options().sparse(true).create(&path, 1 << 30)?;
    /// draft[1 << 29] = 7;
    /// draft.commit()?;
    /// assert_eq!(path.metadata()?.len(), 1 << 30);
    /// assert!(path.metadata()?.blocks() * 512 < 1 << 20);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn sparse(enable: bool) { sparse = enable; }

    /// Whether the path must not exist, not even as a dangling link, neither at `create` nor at `commit`; if two drafts
    /// race, one fails with `EEXIST`. Default false.
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("list");
    /// std::fs::write(&path, "here")?;
    /// let error = stillmap::Draft::options().create_new(true).create(&path, 4).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias = "O_EXCL")]
    fn create_new(enable: bool) { create_new = enable; }

    /// How a file that exists is replaced. Default: [`Replace::Rename`].
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("list");
    /// use stillmap::{Draft, Replace};
    /// let options = Draft::options().replace(Replace::RenameOrInPlace);
    /// options.create(&path, 4)?.commit()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("inotify", "bind mount", "EBUSY", "hard link"))]
    fn replace(how: Replace) { replace = how; }

    /// Whether owner, group, ACL and extended attributes of a replaced file must all be kept: `create` (or `commit`, if
    /// they have changed since) then fails if one cannot be copied. Default false: attributes that may not be copied are left
    /// out, in a way that gives no user more access than the old file did.
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("list");
    /// # std::fs::write(&path, "here")?;
    /// let draft = stillmap::Draft::options().require_attributes(true).create(&path, 4)?;
    /// draft.commit()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("ACL", "xattr", "chown"))]
    fn require_attributes(enable: bool) { require_attributes = enable; }

    /// The mode of the file, exactly: the umask and a default ACL of the directory do not apply, and a replaced file's
    /// mode and ACL are not kept. Where the group of a replaced file cannot be kept, the group and all others get only what
    /// both had in `mode`. It has no effect on a file that is written in place. Default: those of the file that is replaced, or
    /// what [`File::create`] gives.
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("list");
    /// use std::os::unix::fs::PermissionsExt;
    /// stillmap::Draft::options().mode(0o600).create(&path, 4)?.commit()?;
    /// assert_eq!(path.metadata()?.permissions().mode() & 0o777, 0o600);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// [`File::create`]: std::fs::File::create
    fn mode(mode: u32) { mode = Some(mode & 0o7777); }

    /// Whether `commit` waits until the file is durable; default true. Without it the file is just as complete for
    /// every process that opens it, but a loss of power soon after may leave the old file, or, on some file systems, an
    /// empty one.
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("list");
    /// let mut draft = stillmap::Draft::options().durable(false).create(&path, 2)?;
    /// draft.copy_from_slice(b"ab");
    /// draft.commit()?;
    /// assert_eq!(std::fs::read(&path)?, b"ab");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn durable(enable: bool) { durable = enable; }

    /// The most bytes to keep in memory; a longer draft is written to its unnamed file from the start. That needs a
    /// file system where stores into reserved space cannot fail (ext4, xfs, tmpfs); elsewhere, and in place, a longer
    /// draft is [`TooLarge`](crate::Error::TooLarge). On tmpfs, drafts of 1 MiB and more are always in their file.
    /// Default: half of the memory that is available.
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("list");
    /// let mut draft = stillmap::Draft::options().memory_limit(8 << 20).create(&path, 2)?;
    /// draft.copy_from_slice(b"ab");
    /// draft.commit()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn memory_limit(bytes: u64) { memory_limit = Some(bytes); }
}

impl DraftOptions {
    pub(super) fn fits_in_memory(&self, len: usize) -> bool {
        budget::fits_memory(len as u64, self.memory_limit)
    }

    pub(super) fn memory_limit_or_default(&self) -> u64 {
        let default = budget::default_memory_limit;
        self.memory_limit.unwrap_or_else(default)
    }
}
