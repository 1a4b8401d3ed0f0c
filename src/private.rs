//! The bytes of a file as private memory that the program can change.
//!
//! A copy-on-write mapping of a file that other processes write to is unsound: pages that were not stored to yet show what
//! they write, and a truncation removes even the other pages. So only files that cannot change are mapped: sealed files, and
//! unnamed files of this process.

use crate::backing::Backing;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use crate::held::{Held, Opened};
use crate::input::{Access, Request, Source};
use crate::ladder;
use crate::options::{impl_try_from_file, setters};
use crate::pages::Pages;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::NonNull;

/// The bytes of a file as private memory: stores never change the file and are seen by no other process; later writes of
/// other processes to the file are not seen here.
///
/// A sealed memfd, a file under fs-verity, one on squashfs, erofs or iso9660, or a reflink clone of a large file (on xfs
/// and btrfs, at the same cost for any size) is mapped copy-on-write: a page takes memory when it is first stored to.
/// Otherwise the bytes are copied: into memory with huge pages up to half of what is available, beyond that into an
/// unnamed file. A mapping may be larger than the memory of the machine (`MAP_NORESERVE`, mmap(2)).
///
/// # Examples
/// ```
/// let mut bytes = stillmap::Private::open("Cargo.toml")?;
/// bytes.make_ascii_uppercase();
/// assert!(bytes.starts_with(b"[PACKAGE]"));
/// assert!(std::fs::read("Cargo.toml")?.starts_with(b"[package]"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "MAP_PRIVATE")]
pub struct Private {
    held: Held,
}

impl Private {
    /// The bytes of a file, from its start to its end; of a pipe or a device, all that can be read.
    ///
    /// # Errors
    /// [`Error::IsDirectory`]; [`Error::TooLarge`] for an input without a size that has more bytes than half of the
    /// available memory; [`Error::NoRoom`](crate::Error::NoRoom) for a file that fits neither into memory nor on a disk;
    /// [`Error::Busy`] for one that this process edits as an [`Exclusive`](crate::Exclusive); [`Error::Os`] for what the
    /// kernel refused.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Private::open("Cargo.toml")?;
    /// assert_eq!(&bytes[..], std::fs::read("Cargo.toml")?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Private::options().open(path)
    }

    /// The bytes of an open descriptor, from its current offset to its end; the offset is moved to the end, as by
    /// reading.
    ///
    /// # Errors
    /// As [`open`](Private::open).
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let mut bytes = stillmap::Private::from_fd(&file)?;
    /// bytes[0] = b'{';
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(fd: F) -> Result<Self> {
        Private::options().from_fd(fd)
    }

    /// The bytes of a file that is open for reading, from its start to its end, wherever its offset is; the offset is
    /// neither read nor moved.
    ///
    /// # Errors
    /// As [`open`](Private::open).
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let bytes = stillmap::Private::from_file(&file)?;
    /// assert_eq!(bytes.len() as u64, file.metadata()?.len());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_file<F: AsFd>(file: F) -> Result<Self> {
        Private::options().from_file(file)
    }

    /// The window and the limits.
    ///
    /// # Examples
    /// ```
    /// let word = stillmap::Private::options().offset(1).len(7).open("Cargo.toml")?;
    /// assert_eq!(&word[..], b"package");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn options() -> PrivateOptions {
        PrivateOptions::default()
    }

    /// What holds the bytes that were not stored to: [`Sealed`](Backing::Sealed), [`ReadOnly`](Backing::ReadOnly),
    /// [`Cloned`](Backing::Cloned), [`Disk`](Backing::Disk) or [`Memory`](Backing::Memory). It never changes.
    ///
    /// # Examples
    /// ```
    /// let small = stillmap::Private::open("Cargo.toml")?;
    /// assert_eq!(small.backing(), stillmap::Backing::Memory);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn backing(&self) -> Backing {
        self.held.backing()
    }

    /// Advice, prefetch, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Private::open("Cargo.toml")?;
    /// assert!(bytes.pages().is_resident(..)?);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        self.held.pages()
    }

    fn new(opened: Opened) -> Self {
        Private { held: opened.bytes }
    }
}

// SAFETY:
// - The bytes of `held`, which owns them and does not move them. They were initialised by a read, or are mapped inside a
//   file that does not change: see `Backing`.
// - They are writable memory, or mapped copy-on-write.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Private {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        self.held.start_and_len()
    }
}

impl_byte_slice!(Private, debug: backing);
impl_byte_slice_mut!(Private);

impl_try_from_file! {
    /// The whole file, wherever its offset is.
    Private, file => Private::options().open_source(Source::from_owned(file))
}

/// Options for opening a [`Private`]; made by [`Private::options`].
///
/// # Examples
/// ```
/// let mut bytes = stillmap::Private::options().size_limit(1 << 20).open("Cargo.toml")?;
/// bytes[0] = b'{';
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct PrivateOptions {
    request: Request,
}

impl Default for PrivateOptions {
    fn default() -> Self {
        PrivateOptions {
            request: Request {
                access: Access::CopyOnWrite,
                lease: false,
                ..Request::default()
            },
        }
    }
}

setters! {
    impl PrivateOptions;

    /// Skips the first `offset` bytes of the input; they need not be whole pages.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Private::options().offset(1).open("Cargo.toml")?;
    /// assert!(bytes.starts_with(b"package]"));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn offset(offset: u64) { request.offset = offset; }

    /// Takes `len` bytes, no more and no less; the default is all up to the end.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Private::options().len(9).open("Cargo.toml")?;
    /// assert_eq!(&bytes[..], b"[package]");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn len(len: usize) { request.len = Some(len); }

    /// The most bytes of the input, as [`SnapshotOptions::size_limit`](crate::SnapshotOptions::size_limit).
    ///
    /// # Examples
    /// ```
    /// let endless = stillmap::Private::options().size_limit(1 << 20).open("/dev/zero");
    /// assert!(matches!(endless, Err(stillmap::Error::TooLarge { .. })));
    /// ```
    fn size_limit(bytes: u64) { request.limits.size = Some(bytes); }

    /// The most bytes to copy into memory, as [`SnapshotOptions::memory_limit`](crate::SnapshotOptions::memory_limit).
    /// Pages of a mapping that are stored to take memory in addition.
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("large");
    /// std::fs::write(&path, vec![7; 4 << 20])?;
    /// let bytes = stillmap::Private::options().memory_limit(1 << 20).open(&path)?;
    /// assert_ne!(bytes.backing(), stillmap::Backing::Memory);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    fn memory_limit(bytes: u64) { request.limits.memory = Some(bytes); }
}

impl PrivateOptions {
    /// Opens a path.
    ///
    /// # Errors
    /// As [`Private::open`], and [`Error::OutOfBounds`] for a window that does not lie inside the input.
    ///
    /// # Examples
    /// ```
    /// let outside = stillmap::Private::options().offset(1 << 40).open("Cargo.toml");
    /// assert!(matches!(outside, Err(stillmap::Error::OutOfBounds { .. })));
    /// ```
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Private> {
        let request = &self.request;
        ladder::open_path(path.as_ref(), request, &mut |_, _| Ok(())).map(Private::new)
    }

    /// The bytes of an open descriptor, as [`Private::from_fd`] returns them.
    ///
    /// # Errors
    /// As [`open`](PrivateOptions::open).
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let bytes = stillmap::Private::options().len(9).from_fd(&file)?;
    /// assert_eq!(&bytes[..], b"[package]");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(&self, fd: F) -> Result<Private> {
        self.open_source(Source::from_fd(fd.as_fd(), None)?)
    }

    /// A whole file that is open, as [`Private::from_file`] returns it.
    ///
    /// # Errors
    /// As [`open`](PrivateOptions::open).
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let bytes = stillmap::Private::options().len(9).from_file(&file)?;
    /// assert_eq!(&bytes[..], b"[package]");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_file<F: AsFd>(&self, file: F) -> Result<Private> {
        self.open_source(Source::from_file(file.as_fd())?)
    }

    fn open_source(&self, source: Source<'_>) -> Result<Private> {
        ladder::open(source, &self.request, &mut |_, _| Ok(())).map(Private::new)
    }
}
