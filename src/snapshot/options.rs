//! Which bytes to take, and which rungs of the ladder may be used for it.

use super::{Snapshot, file, stream};
use crate::budget;
use crate::error::{Error, Result};
use crate::input::Source;
use crate::sys::file::Kind;
use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

/// How to open a [`Snapshot`]; made by [`Snapshot::options`].
///
/// # Examples
/// ```
/// let bytes = stillmap::Snapshot::options()
///     .limit(1 << 20)
///     .progress(|done, total| eprintln!("{done} of {total:?}"))
///     .open("Cargo.toml")?;
/// assert!(bytes.starts_with(b"[package]"));
/// # Ok::<(), stillmap::Error>(())
/// ```
#[must_use]
pub struct SnapshotOptions<'a> {
    pub(super) offset: u64,
    pub(super) len: Option<usize>,
    limit: Option<u64>,
    pub(super) memory_limit: Option<u64>,
    pub(super) lease: bool,
    pub(super) across_fork: bool,
    pub(super) must_map: bool,
    pub(super) populate: bool,
    progress: Option<Progress<'a>>,
}

/// Told how many bytes are done, and of how many if that is known.
type Progress<'a> = Box<dyn FnMut(u64, Option<u64>) + 'a>;

impl Default for SnapshotOptions<'_> {
    fn default() -> Self {
        SnapshotOptions {
            offset: 0,
            len: None,
            limit: None,
            memory_limit: None,
            lease: true,
            across_fork: false,
            must_map: false,
            populate: false,
            progress: None,
        }
    }
}

impl fmt::Debug for SnapshotOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotOptions")
            .field("offset", &self.offset)
            .field("len", &self.len)
            .field("limit", &self.limit)
            .field("memory_limit", &self.memory_limit)
            .field("lease", &self.lease)
            .field("across_fork", &self.across_fork)
            .field("must_map", &self.must_map)
            .field("populate", &self.populate)
            .finish_non_exhaustive()
    }
}

impl<'a> SnapshotOptions<'a> {
    /// Leaves out the first `offset` bytes: any number, page-aligned or not. They count from where the input starts,
    /// which for a descriptor is its current offset.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::options().offset(1).open("Cargo.toml")?;
    /// assert!(bytes.starts_with(b"package]"));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn offset(mut self, offset: u64) -> Self {
        self.offset = offset;
        self
    }

    /// Takes `len` bytes, no more and no less; the default is all up to the end.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::options().offset(1).len(7).open("Cargo.toml")?;
    /// assert_eq!(&bytes[..], b"package");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn len(mut self, len: usize) -> Self {
        self.len = Some(len);
        self
    }

    /// The most bytes to take from a stream or device; one that has more is
    /// [`Error::TooLarge`](crate::Error::TooLarge). The default is the memory limit.
    ///
    /// # Examples
    /// ```
    /// let endless = stillmap::Snapshot::options().limit(1 << 20).open("/dev/zero");
    /// assert!(matches!(endless, Err(stillmap::Error::TooLarge { limit: 1048576, .. })));
    /// ```
    pub fn limit(mut self, bytes: u64) -> Self {
        self.limit = Some(bytes);
        self
    }

    /// The most bytes to copy into memory, now or when a lease is broken; a file above it is copied to an unnamed file on
    /// disk, and a stream or device above it is [`Error::TooLarge`](crate::Error::TooLarge). The default is half of what
    /// is available, control groups counted.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Backing, Snapshot};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("large");
    /// std::fs::write(&path, vec![7; 4 << 20])?;
    /// let bytes = Snapshot::options().lease(false).memory_limit(1 << 20).open(&path)?;
    /// assert_eq!(bytes.backing(), Backing::Disk); // on the disk
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = Some(bytes);
        self
    }

    /// Whether a read lease may keep the bytes; default true.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Backing, Snapshot};
    /// let bytes = Snapshot::options().lease(false).open("Cargo.toml")?;
    /// assert_ne!(bytes.backing(), Backing::Leased);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn lease(mut self, yes: bool) -> Self {
        self.lease = yes;
        self
    }

    /// Whether the bytes are there in forked children, too; default false. If so, they are never leased.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Backing, Snapshot};
    /// let bytes = Snapshot::options().across_fork(true).open("Cargo.toml")?;
    /// assert_ne!(bytes.backing(), Backing::Leased);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn across_fork(mut self, yes: bool) -> Self {
        self.across_fork = yes;
        self
    }

    /// Whether to fail with [`Error::NotMappable`](crate::Error::NotMappable) rather than read or copy; default false.
    ///
    /// # Examples
    /// ```
    /// let null = stillmap::Snapshot::options().must_map(true).open("/dev/null");
    /// assert!(matches!(null, Err(stillmap::Error::NotMappable { .. })));
    /// ```
    pub fn must_map(mut self, yes: bool) -> Self {
        self.must_map = yes;
        self
    }

    /// Whether to fault all pages in before returning; default false. What was read or copied is there anyway. A page that
    /// the device cannot read is [`Error::Faulted`](crate::Error::Faulted) then, and not a signal later.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Snapshot;
    /// let bytes = Snapshot::options().populate(true).open("Cargo.toml")?;
    /// assert!(bytes.pages().residency(..)?.is_full());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn populate(mut self, yes: bool) -> Self {
        self.populate = yes;
        self
    }

    /// Calls `f` after each step of a read or copy with the bytes done, and the total if it is known.
    ///
    /// # Examples
    /// ```
    /// let mut last = 0;
    /// let options = stillmap::Snapshot::options().progress(|done, _total| last = done);
    /// let bytes = options.open("Cargo.toml")?;
    /// assert_eq!(last, bytes.len() as u64);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn progress(mut self, f: impl FnMut(u64, Option<u64>) + 'a) -> Self {
        self.progress = Some(Box::new(f));
        self
    }

    /// Opens a path.
    ///
    /// # Errors
    /// As [`Snapshot::open`], and [`Error::OutOfBounds`](crate::Error::OutOfBounds) for a window that does not lie
    /// inside the input.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::options().open("Cargo.toml")?;
    /// assert!(bytes.starts_with(b"[package]"));
    /// let outside = stillmap::Snapshot::options().offset(1 << 40).open("Cargo.toml");
    /// assert!(matches!(outside, Err(stillmap::Error::OutOfBounds { .. })));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(mut self, path: P) -> Result<Snapshot> {
        self.take(&Source::open(path.as_ref())?)
    }

    /// Takes standard input, as [`Snapshot::stdin`] does.
    ///
    /// # Errors
    /// As [`open`](SnapshotOptions::open).
    ///
    /// # Examples
    /// ```
    /// let input = stillmap::Snapshot::options().limit(1 << 20).stdin()?;
    /// println!("{} bytes", input.len());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn stdin(mut self) -> Result<Snapshot> {
        let stdin = std::io::stdin();
        self.take(&Source::stdin(stdin.as_fd()))
    }

    /// Takes an open descriptor, as [`Snapshot::from_fd`] does. After a window the descriptor's offset is the end of
    /// the window.
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
    pub fn from_fd<F: AsFd>(mut self, fd: F) -> Result<Snapshot> {
        self.take(&Source::descriptor(fd.as_fd()))
    }

    fn take(&mut self, source: &Source<'_>) -> Result<Snapshot> {
        // A mapping knows no path; its source does.
        self.first_rung(source)
            .map_err(|e| e.with_path(|| source.name()))
    }

    /// The first fork of the ladder: what has a size, and what has to be read to its end.
    fn first_rung(&mut self, source: &Source<'_>) -> Result<Snapshot> {
        let stat = source.stat()?;
        if stat.kind == Kind::Directory {
            return Err(Error::IsDirectory {
                path: source.name(),
            });
        }
        if stat.kind == Kind::Regular && stat.size > 0 && !source.is_borrowed() {
            return file::take(self, source, stat, 0);
        }
        let position = source.position()?;
        match (position, stat.kind) {
            (Some(position), Kind::Regular) if stat.size > 0 => {
                file::take(self, source, stat, position)
            }
            (Some(position), Kind::Block) => file::take_device(self, source, position),
            _ => stream::take(self, source, position.filter(|_| stat.kind == Kind::Other)),
        }
    }

    /// The most bytes to take from what has no size.
    pub(super) fn stream_limit(&self) -> u64 {
        let memory = self.memory_limit.unwrap_or(u64::MAX);
        self.limit.unwrap_or(memory).min(memory)
    }

    /// True if the caller set a limit for streams.
    pub(super) fn has_stream_limit(&self) -> bool {
        self.limit.or(self.memory_limit).is_some()
    }

    /// The most bytes to take from a block device, which has a size.
    pub(super) fn device_limit(&self) -> u64 {
        match self.has_stream_limit() {
            true => self.stream_limit(),
            false => budget::default_memory_limit(),
        }
    }

    pub(super) fn report(&mut self, done: u64, total: Option<u64>) {
        if let Some(progress) = &mut self.progress {
            progress(done, total);
        }
    }
}
