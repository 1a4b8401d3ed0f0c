//! Options for opening a snapshot: the window, the limits, and which strategies are allowed.

use super::Snapshot;
use crate::atfork;
use crate::error::{Error, Result};
use crate::input::{Progress, Request, Source};
use crate::ladder;
use crate::options::setters;
use crate::process::Process;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Options for opening a [`Snapshot`]; made by [`Snapshot::options`].
///
/// # Examples
/// ```
/// let bytes = stillmap::Snapshot::options()
///     .size_limit(1 << 20)
///     .progress(|done, total| eprintln!("{done} of {total:?}"))
///     .open("Cargo.toml")?;
/// assert!(bytes.starts_with(b"[package]"));
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct SnapshotOptions {
    request: Request,
}

setters! {
    impl SnapshotOptions;

    /// Skips the first `offset` bytes of the input; they need not be whole pages. The input of a descriptor starts at its
    /// current offset.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::options().offset(1).open("Cargo.toml")?;
    /// assert!(bytes.starts_with(b"package]"));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn offset(offset: u64) { request.offset = offset; }

    /// Takes `len` bytes, no more and no less; the default is all up to the end.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::options().offset(1).len(7).open("Cargo.toml")?;
    /// assert_eq!(&bytes[..], b"package");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn len(len: usize) { request.len = Some(len); }

    /// The most bytes to take of the input, with those that are skipped for an [`offset`](SnapshotOptions::offset) by
    /// reading; more is [`Error::TooLarge`](crate::Error::TooLarge). By default a file may have any size, and a stream or
    /// device as many bytes as the memory limit.
    ///
    /// With a limit, a FIFO that no process has open for writing is
    /// [`Error::NotMappable`](crate::Error::NotMappable), and is not waited for.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Error, Snapshot};
    /// let endless = Snapshot::options().size_limit(1 << 20).open("/dev/zero");
    /// assert!(matches!(endless, Err(Error::TooLarge { limit: 1048576, .. })));
    /// let large = Snapshot::options().size_limit(3).open("Cargo.toml");
    /// assert!(matches!(large, Err(Error::TooLarge { limit: 3, .. })));
    /// ```
    fn size_limit(bytes: u64) { request.limits.size = Some(bytes); }

    /// The most bytes to copy into memory, now or when a lease is broken. A larger file is copied to an unnamed file on
    /// disk; a larger stream is [`Error::TooLarge`](crate::Error::TooLarge), or goes there with
    /// [`spill`](SnapshotOptions::spill).
    ///
    /// The default is half of the available memory, control groups included; for a file that no disk can take, and for a
    /// stream with a limit on its size or on what is copied, all of it but an eighth. `RLIMIT_AS` and `RLIMIT_DATA` are not
    /// looked up: copies may take all that they leave, as a `Vec` may.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Backing, Snapshot};
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("large");
    /// std::fs::write(&path, vec![7; 4 << 20])?;
    /// let bytes = Snapshot::options().lease(false).memory_limit(1 << 20).open(&path)?;
    /// assert_eq!(bytes.backing(), Backing::Disk);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn memory_limit(bytes: u64) { request.limits.memory = Some(bytes); }

    /// The most bytes to read or copy, into memory or to disk: a larger input is mapped, or is
    /// [`Error::NotMappable`](crate::Error::NotMappable) with the [`Reason`](crate::Reason). No limit by default.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Error, Reason, Snapshot};
    /// let options = Snapshot::options().lease(false).copy_limit(16);
    /// match options.open("Cargo.toml") {
    ///     Err(Error::NotMappable { reason, .. }) => assert_eq!(reason, Some(Reason::NotAsked)),
    ///     opened => assert!(opened?.len() > 16), // a file system that can clone files
    /// }
    /// # Ok::<(), Error>(())
    /// ```
    fn copy_limit(bytes: u64) { request.limits.copy = Some(bytes); }

    /// Whether a stream beyond the memory limit is continued in an unnamed file on disk; default false: it is
    /// [`Error::TooLarge`](crate::Error::TooLarge).
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Backing, Snapshot};
    /// let options = Snapshot::options().len(1 << 20).memory_limit(1 << 16).spill(true);
    /// assert_eq!(options.open("/dev/zero")?.backing(), Backing::Disk);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn spill(enable: bool) { request.spill = enable; }

    /// Whether the file may be leased; default true.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Backing, Snapshot};
    /// let bytes = Snapshot::options().lease(false).open("Cargo.toml")?;
    /// assert_ne!(bytes.backing(), Backing::Leased);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn lease(enable: bool) { request.lease = enable; }

    /// Whether to fail with [`Error::NotMappable`](crate::Error::NotMappable) rather than copy more than 1 MiB, or read an
    /// input without a size; default false. A small file may be read all the same: that is faster than mapping it.
    ///
    /// # Examples
    /// ```
    /// let null = stillmap::Snapshot::options().require_mapping(true).open("/dev/null");
    /// assert!(matches!(null, Err(stillmap::Error::NotMappable { .. })));
    /// ```
    fn require_mapping(enable: bool) { request.require_mapping = enable; }

    /// Whether to fault all pages in before returning; default false. Bytes that were read or copied are in memory
    /// anyway. A page that the device cannot read is [`Error::PagesLost`](crate::Error::PagesLost) then, and not a
    /// signal later. Before Linux 5.14 it has no effect.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Snapshot;
    /// let bytes = Snapshot::options().populate(true).open("Cargo.toml")?;
    /// assert!(bytes.pages().residency(..)?.is_full());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn populate(enable: bool) { request.populate = enable; }
}

impl SnapshotOptions {
    /// Calls `f` after each step of a read or copy with the bytes done, and the total if it is known. In a child that `f`
    /// forks, opening fails with [`Error::WrongProcess`](crate::Error::WrongProcess).
    ///
    /// # Examples
    /// ```
    /// let mut last = 0;
    /// let options = stillmap::Snapshot::options().progress(|done, _total| last = done);
    /// let bytes = options.open("Cargo.toml")?;
    /// assert_eq!(last, bytes.len() as u64);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn progress<F: FnMut(u64, Option<u64>)>(self, f: F) -> SnapshotProgress<F> {
        SnapshotProgress { options: self, f }
    }

    /// Opens a path.
    ///
    /// # Errors
    /// As [`Snapshot::open`], and those that the options name; [`Error::OutOfBounds`](crate::Error::OutOfBounds) for a window
    /// that does not lie inside the input.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::options().open("Cargo.toml")?;
    /// assert!(bytes.starts_with(b"[package]"));
    /// let outside = stillmap::Snapshot::options().offset(1 << 40).open("Cargo.toml");
    /// assert!(matches!(outside, Err(stillmap::Error::OutOfBounds { .. })));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Snapshot> {
        self.open_path(path.as_ref(), &mut |_, _| Ok(()))
    }

    /// Reads standard input, as [`Snapshot::stdin`] does.
    ///
    /// # Errors
    /// As [`open`](SnapshotOptions::open).
    ///
    /// # Examples
    /// ```
    /// let input = stillmap::Snapshot::options().size_limit(1 << 20).stdin()?;
    /// println!("{} bytes", input.len());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn stdin(&self) -> Result<Snapshot> {
        self.open_source(stdin()?, &mut |_, _| Ok(()))
    }

    /// The bytes of an open descriptor, as [`Snapshot::from_fd`] returns them. After a window the descriptor's offset is
    /// the end of the window.
    ///
    /// # Errors
    /// As [`open`](SnapshotOptions::open).
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let bytes = stillmap::Snapshot::options().len(9).from_fd(&file)?;
    /// assert_eq!(&bytes[..], b"[package]");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(&self, fd: F) -> Result<Snapshot> {
        self.open_source(Source::from_fd(fd.as_fd(), None)?, &mut |_, _| Ok(()))
    }

    /// A whole file that is open, as [`Snapshot::from_file`] returns it.
    ///
    /// # Errors
    /// As [`open`](SnapshotOptions::open).
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let bytes = stillmap::Snapshot::options().offset(1).len(7).from_file(&file)?;
    /// assert_eq!(&bytes[..], b"package");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_file<F: AsFd>(&self, file: F) -> Result<Snapshot> {
        self.open_source(Source::from_file(file.as_fd())?, &mut |_, _| Ok(()))
    }

    /// Maps a window of an open file without protection against changes, as [`Snapshot::map_unguarded`]
    /// does: for a program that can promise it, where [`open`](SnapshotOptions::open) would copy.
    ///
    /// # Errors
    /// As [`Snapshot::map_unguarded`], and those that the options name; [`Error::OutOfBounds`](crate::Error::OutOfBounds) for a
    /// window that does not lie inside the file.
    ///
    /// # Safety
    /// As for [`Snapshot::map_unguarded`].
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Error, Snapshot};
    /// let options = Snapshot::options().offset(1).len(7);
    /// let bytes = match options.clone().require_mapping(true).open("Cargo.toml") {
    ///     Err(Error::NotMappable { .. }) => {
    ///         let file = std::fs::File::open("Cargo.toml")?;
    ///         // SAFETY: no process edits the manifest while its tests run.
    ///         unsafe { options.map_unguarded(&file) }?
    ///     }
    ///     opened => opened?,
    /// };
    /// assert_eq!(&bytes[..], b"package");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFd>(&self, file: F) -> Result<Snapshot> {
        let source = Source::from_file(file.as_fd())?;
        // SAFETY: the caller's promise is the same.
        unsafe { ladder::map_unguarded(&source, &self.request) }
            .map(Snapshot::new)
            .map_err(|e| e.with_path(|| source.name()))
    }

    fn open_path(&self, path: &Path, progress: &mut Progress<'_>) -> Result<Snapshot> {
        ladder::open_path(path, &self.request, progress).map(Snapshot::new)
    }

    pub(super) fn open_source(
        &self,
        source: Source<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Snapshot> {
        ladder::open(source, &self.request, progress).map(Snapshot::new)
    }
}

fn stdin() -> Result<Source<'static>> {
    let stdin = std::io::stdin();
    Source::from_fd(stdin.as_fd(), Some(Path::new("/dev/stdin")))
}

/// [`SnapshotOptions`] with a function that is called while bytes are read or copied; made by
/// [`SnapshotOptions::progress`].
///
/// # Examples
/// ```
/// let options = stillmap::Snapshot::options().progress(|done, _total| println!("{done} bytes"));
/// let bytes = options.open("Cargo.toml")?;
/// assert!(bytes.starts_with(b"[package]"));
/// # Ok::<(), stillmap::Error>(())
/// ```
#[must_use]
pub struct SnapshotProgress<F> {
    options: SnapshotOptions,
    f: F,
}

impl<F: FnMut(u64, Option<u64>)> SnapshotProgress<F> {
    /// As [`SnapshotOptions::open`].
    ///
    /// # Errors
    /// As [`SnapshotOptions::open`].
    ///
    /// # Examples
    /// ```
    /// let options = stillmap::Snapshot::options().progress(|_, _| ());
    /// assert!(options.open("Cargo.toml")?.starts_with(b"[package]"));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(self, path: P) -> Result<Snapshot> {
        self.run(|options, progress| options.open_path(path.as_ref(), progress))
    }

    /// The function may fork. Then only the parent continues: the child would read from the same descriptors, and write to
    /// the same unnamed file.
    fn run(
        mut self,
        open: impl FnOnce(&SnapshotOptions, &mut Progress<'_>) -> Result<Snapshot>,
    ) -> Result<Snapshot> {
        atfork::install()?;
        let process = Process::current();
        let opened = open(&self.options, &mut |done, total| {
            (self.f)(done, total);
            if process.is_current() {
                Ok(())
            } else {
                Err(io::ErrorKind::Other.into())
            }
        });
        if process.is_current() {
            opened
        } else {
            Err(Error::wrong_process(None))
        }
    }

    /// As [`SnapshotOptions::stdin`].
    ///
    /// # Errors
    /// As [`SnapshotOptions::open`].
    ///
    /// # Examples
    /// ```
    /// let options = stillmap::Snapshot::options().progress(|done, _| eprintln!("{done}"));
    /// println!("{} bytes", options.stdin()?.len());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn stdin(self) -> Result<Snapshot> {
        self.run(|options, progress| options.open_source(stdin()?, progress))
    }

    /// As [`SnapshotOptions::from_fd`].
    ///
    /// # Errors
    /// As [`SnapshotOptions::open`].
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let options = stillmap::Snapshot::options().progress(|_, _| ());
    /// assert!(options.from_fd(&file)?.starts_with(b"[package]"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd<D: AsFd>(self, fd: D) -> Result<Snapshot> {
        let source = Source::from_fd(fd.as_fd(), None)?;
        self.run(|options, progress| options.open_source(source, progress))
    }

    /// As [`SnapshotOptions::from_file`].
    ///
    /// # Errors
    /// As [`SnapshotOptions::open`].
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let options = stillmap::Snapshot::options().progress(|_, _| ());
    /// assert!(options.from_file(&file)?.starts_with(b"[package]"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_file<D: AsFd>(self, file: D) -> Result<Snapshot> {
        let source = Source::from_file(file.as_fd())?;
        self.run(|options, progress| options.open_source(source, progress))
    }
}

impl<F> fmt::Debug for SnapshotProgress<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotProgress")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
