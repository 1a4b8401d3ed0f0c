//! The ways to create a draft.

use super::output::Output;
use super::stream::Stream;
use super::target::Target;
use super::{Draft, DraftOptions};
use crate::atfork::{NoFork, NotForChildren};
use crate::error::{Error, Result};
use crate::page;
use crate::range::whole_pages;
use crate::snapshot::Snapshot;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

impl Draft {
    /// A draft of `len` zero bytes for `path`, which is untouched until [`commit`](Draft::commit).
    ///
    /// # Errors
    /// Everything that can be checked in advance: [`Error::IsDirectory`]; [`Error::Os`] for a directory that is missing
    /// or may not be written to, a file that may not be written to or replaced (another user's in a sticky directory,
    /// immutable or append-only, a mount point), a disk without room; [`Error::TooLarge`] over the
    /// [memory limit](DraftOptions::memory_limit) where the file system cannot hold the bytes safely meanwhile.
    ///
    /// # Examples
    /// ```
    /// let error = stillmap::Draft::create("/no/such/directory/file", 1).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// ```
    pub fn create<P: AsRef<Path>>(path: P, len: usize) -> Result<Self> {
        Draft::options().create(path, len)
    }

    /// A draft that starts with the bytes of the file at `path`, of one moment. On file systems with reflinks (xfs,
    /// btrfs), what is not changed shares its blocks with the old file.
    ///
    /// # Errors
    /// As [`create`](Draft::create) and [`Snapshot::open`]; [`Error::NotMappable`] for what is not a regular file;
    /// [`Error::Busy`] if another process writes to the file meanwhile, as far as [`Snapshot::is_consistent`] shows it.
    ///
    /// # Examples
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let path = directory.path().join("list");
    /// std::fs::write(&path, "one two")?;
    /// let mut draft = stillmap::Draft::edit(&path)?;
    /// draft[..3].copy_from_slice(b"ONE");
    /// draft.commit()?;
    /// assert_eq!(std::fs::read(&path)?, b"ONE two");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("FICLONE", "reflink"))]
    pub fn edit<P: AsRef<Path>>(path: P) -> Result<Self> {
        Draft::options().edit(path)
    }

    /// A draft of `len` zero bytes for standard output: memory, written out by [`commit`](Draft::commit).
    ///
    /// # Errors
    /// [`Error::Os`] if standard output is closed or not open for writing, or there is no memory.
    ///
    /// # Examples
    /// ```
    /// let mut draft = stillmap::Draft::stdout(6)?;
    /// draft.copy_from_slice(b"hello\n");
    /// draft.commit()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn stdout(len: usize) -> Result<Self> {
        let path = Path::new("/dev/stdout");
        let to = io::stdout().as_fd().try_clone_to_owned();
        let to = to.map_err(|e| Error::os("dup", Some(path), e))?;
        let stream = Stream::new(File::from(to), path)?;
        Draft::with_output(Draft::options(), Output::Stream(stream), len)
    }

    /// Sparse files, files that must be new, in-place writing, modes, and durability.
    ///
    /// # Examples
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let path = directory.path().join("new");
    /// stillmap::Draft::options().create_new(true).create(&path, 0)?.commit()?;
    /// assert!(stillmap::Draft::options().create_new(true).create(&path, 0).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn options() -> DraftOptions {
        DraftOptions::default()
    }

    fn new(options: DraftOptions, path: &Path, len: usize) -> Result<Self> {
        let target = Target::resolve(path, options.create_new)?;
        // Until the file is known to the fork handler.
        let _no_fork = NoFork::begin();
        let output = Output::create(target, &options)?;
        Draft::with_output(options, output, len)
    }

    fn edit_with(options: DraftOptions, path: &Path) -> Result<Self> {
        let target = Target::resolve(path, false)?;
        let _no_fork = NoFork::begin();
        let mut output = Output::create(target, &options)?;
        let source = output.open_source()?;
        let old = Snapshot::from_fd(&source).map_err(|e| output.add_path(e))?;
        if !old.is_consistent() {
            return Err(Error::is_written(Some(output.path())));
        }
        if options.fits_in_memory(old.len()) && !options.sparse {
            output.clone_from(&source);
        }
        let mut draft = Draft::with_output(options, output, old.len())?;
        draft.copy_from_slice(&old);
        Ok(draft)
    }

    fn with_output(options: DraftOptions, mut output: Output, len: usize) -> Result<Self> {
        whole_pages(len, page::size()).map_err(|e| output.add_path(e))?;
        let not_for_children = NotForChildren::new().map_err(|e| output.add_path(e))?;
        let store = output.store(&options, len);
        let store = store.map_err(|e| output.add_path(e))?;
        let draft = Draft {
            not_for_children,
            store,
            len,
            position: 0,
            output,
            options,
        };
        draft.keep_from_children();
        Ok(draft)
    }
}

impl DraftOptions {
    /// Creates the draft: [`Draft::create`].
    ///
    /// # Errors
    /// As [`Draft::create`].
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("list");
    /// let draft = stillmap::Draft::options().create(&path, 4)?;
    /// assert!(!path.exists()); // until it is committed
    /// draft.commit()?;
    /// assert_eq!(std::fs::read(&path)?, [0; 4]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn create<P: AsRef<Path>>(self, path: P, len: usize) -> Result<Draft> {
        Draft::new(self, path.as_ref(), len)
    }

    /// Creates a draft that starts with the bytes of the file at `path`: [`Draft::edit`].
    ///
    /// # Errors
    /// As [`Draft::edit`].
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("list");
    /// std::fs::write(&path, "here")?;
    /// let mut draft = stillmap::Draft::options().durable(false).edit(&path)?;
    /// draft[0] = b'H';
    /// draft.commit()?;
    /// assert_eq!(std::fs::read(&path)?, b"Here");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn edit<P: AsRef<Path>>(self, path: P) -> Result<Draft> {
        Draft::edit_with(self, path.as_ref())
    }
}
