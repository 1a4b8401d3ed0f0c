//! A new file, written in memory: all of it or nothing.

mod options;
mod pending;
mod store;
mod target;

pub use options::DraftOptions;

use crate::atfork::NotForChildren;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use crate::page;
use crate::pages::Pages;
use crate::sys::process;
use pending::Pending;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use store::Store;
use target::Target;

/// A new file for a path, that nobody sees before it is whole.
///
/// ```text
///   create        an unnamed file beside the target, its space reserved; the target is as it was
///      |          bytes are written here, through &mut [u8]
///   commit        durable, then visible, in one step
///   (or drop)     no trace
/// ```
/// A process that is killed at any moment leaves the old file or the new one under the path, whole. What each step
/// promises when the power fails, and what it does not, is in [`docs::durability`](crate::docs::durability).
///
/// - A full disk is an error of [`create`](Draft::create) or [`resize`](Draft::resize), wherever the file system can
///   reserve space; elsewhere of [`commit`](Draft::commit). It is never a signal.
/// - A symbolic link at the path is followed. Other hard links to the old file keep the old bytes.
/// - What is not a regular file (a pipe, a terminal, `/dev/stdout`) gets the bytes written out by `commit`.
/// - The file gets the mode that [`File::create`] would leave: that of the file it replaces, and its owner where we
///   may give it; else 0666 without the bits of the umask. Access control lists and other attributes are not taken over.
/// - The bytes are zero at first. They are kept in memory, or, if they are more than the
///   [memory limit](DraftOptions::memory_limit), in the unnamed file itself. Like all memory of this process, they can
///   be reached through `/proc` by other processes of the same user.
/// - It stays with the process that made it. A child of [`fork::scope`](crate::fork::scope) does not get the bytes:
///   touching them there ends it, and `resize` and `commit` are errors.
///
/// Where the kernel cannot make unnamed files, a hidden file beside the target, named after it with `.stillmap-draft` in
/// the name, takes the place of one. Dropping removes it; a process that is killed leaves it behind.
///
/// # Examples
/// ```
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("greeting");
/// let mut draft = stillmap::Draft::create(&path, 5)?;
/// draft.copy_from_slice(b"hello");
/// assert!(!path.exists());
/// draft.commit()?;
/// assert_eq!(std::fs::read(&path)?, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias("atomic", "O_TMPFILE"))]
pub struct Draft {
    /// First: it is dropped before the bytes are unmapped.
    not_for_children: NotForChildren,
    store: Store,
    output: Output,
    options: DraftOptions,
    /// The process that made it.
    process: i32,
}

impl Draft {
    fn path(&self) -> &Path {
        self.output.path()
    }
}

/// Where the bytes go in the end.
enum Output {
    File(Pending),
    Stream(Stream),
}

struct Stream {
    to: File,
    path: PathBuf,
}

impl Draft {
    /// A draft of `len` zero bytes for `path`, which is untouched until [`commit`](Draft::commit).
    ///
    /// # Errors
    /// All that can be known beforehand: [`Error::IsDirectory`]; [`Error::Os`] for a directory that is missing or may
    /// not be written to, a file that may not be written to, a disk without room; [`Error::TooLarge`] over the
    /// [memory limit](DraftOptions::memory_limit) where the file system cannot hold the bytes safely meanwhile.
    ///
    /// # Examples
    /// ```
    /// let error = stillmap::Draft::create("/no/such/folder/file", 1).unwrap_err();
    /// assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    /// ```
    pub fn create<P: AsRef<Path>>(path: P, len: usize) -> Result<Self> {
        Draft::options().create(path, len)
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
        Draft::over(Draft::options(), Output::Stream(stream), len)
    }

    /// Sparse files, files that must be new, modes, and durability.
    ///
    /// # Examples
    /// ```
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("new");
    /// stillmap::Draft::options().create_new(true).create(&path, 0)?.commit()?;
    /// assert!(stillmap::Draft::options().create_new(true).create(&path, 0).is_err());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn options() -> DraftOptions {
        DraftOptions::default()
    }

    fn new(options: DraftOptions, path: &Path, len: usize) -> Result<Self> {
        let output = match Target::of(path, options.create_new)? {
            Target::Place(place) => Output::File(Pending::new(place, options.mode)?),
            Target::Stream(to) => Output::Stream(Stream::new(to, path)?),
        };
        Draft::over(options, output, len)
    }

    fn over(options: DraftOptions, mut output: Output, len: usize) -> Result<Self> {
        let not_for_children = NotForChildren::new().map_err(|e| output.named(e))?;
        let made = Draft::store(&options, &mut output, len);
        let store = made.map_err(|e| output.named(e))?;
        let mut draft = Draft {
            store,
            output,
            options,
            process: process::id(),
            not_for_children,
        };
        draft.withhold();
        Ok(draft)
    }

    /// Some ways to keep the bytes share them with forked children, others copy them: so no child gets them.
    fn withhold(&mut self) {
        let start = self.store.as_ptr().addr();
        let pages = page::round_up(self.store.len()).unwrap_or(0);
        self.not_for_children.set_range(start..start + pages);
    }

    /// A forked child has the descriptor of its parent's file, and must not change it.
    fn is_ours(&self, call: &'static str) -> Result<()> {
        if process::id() == self.process {
            return Ok(());
        }
        let why = "the draft is the parent's";
        let source = io::Error::new(io::ErrorKind::InvalidInput, why);
        Err(Error::os(call, Some(self.output.path()), source))
    }

    fn store(options: &DraftOptions, output: &mut Output, len: usize) -> Result<Store> {
        let sparse = options.sparse && matches!(output, Output::File(_));
        if let (Output::File(pending), false) = (&mut *output, sparse) {
            pending.reserve(0, len)?;
        }
        let in_memory = options.fits_in_memory(len) || matches!(output, Output::Stream(_));
        match output {
            _ if sparse => Store::sparse(len),
            Output::File(pending) if !in_memory => Store::mapped(pending.mappable(options)?, len),
            _ => Store::memory(len),
        }
    }

    /// Makes it longer or shorter. New bytes are zero.
    ///
    /// # Errors
    /// As [`create`](Draft::create); the draft is then as it was.
    ///
    /// # Examples
    /// ```
    /// let folder = tempfile::tempdir()?;
    /// let mut draft = stillmap::Draft::create(folder.path().join("list"), 2)?;
    /// draft.copy_from_slice(b"ab");
    /// draft.resize(3)?;
    /// assert_eq!(&draft[..], b"ab\0");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn resize(&mut self, len: usize) -> Result<()> {
        self.is_ours("ftruncate")?;
        self.not_for_children.clear_range();
        let resized = self.change_len(len);
        self.withhold();
        resized.map_err(|e| self.output.named(e))
    }

    fn change_len(&mut self, len: usize) -> Result<()> {
        let old = self.len();
        let Output::File(pending) = &mut self.output else {
            return self.store.resize(len);
        };
        if len == old || self.store.is_sparse() {
            return self.store.resize(len);
        }
        if len < old {
            pending.cut(len)?;
            return self.store.resize(len);
        }
        pending.reserve(old, len)?;
        let stays = self.store.is_mapped() || self.options.fits_in_memory(len);
        let grown = match stays {
            true => self.store.resize(len),
            false => pending
                .mappable(&self.options)
                .and_then(|file| self.store.spill(file, len)),
        };
        grown.inspect_err(|_| {
            let _ = pending.cut(old);
        })
    }

    /// Makes the file durable, then visible under its path, in one step; what is not a regular file gets the bytes
    /// written out. When it returns, the file survives a loss of power, unless [`sync`](DraftOptions::sync) is false.
    ///
    /// # Errors
    /// [`Error::Os`]. The path is then as it was and no trace is left, with two exceptions: the last step, an `fsync`
    /// of the directory, comes when the file is visible already; and a pipe may have got a part of the bytes
    /// (`EPIPE` if its reader went away, without a signal).
    ///
    /// # Examples
    /// ```
    /// let folder = tempfile::tempdir()?;
    /// let path = folder.path().join("number");
    /// std::fs::write(&path, "1")?;
    /// let mut draft = stillmap::Draft::create(&path, 1)?;
    /// draft[0] = b'2';
    /// draft.commit()?;
    /// assert_eq!(std::fs::read(&path)?, b"2");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("persist", "fsync", "rename"))]
    pub fn commit(self) -> Result<()> {
        self.is_ours("linkat")?;
        match self.output {
            Output::Stream(stream) => stream.write_out(&self.store, self.options.sync),
            Output::File(pending) => {
                self.store.write_to(&pending, self.options.sync)?;
                pending.publish(&self.options)
            }
        }
    }
}

impl Output {
    fn path(&self) -> &Path {
        match self {
            Output::File(pending) => pending.path(),
            Output::Stream(stream) => &stream.path,
        }
    }

    /// A mapping knows no path; the draft does.
    fn named(&self, error: Error) -> Error {
        error.with_path(|| Some(self.path().to_path_buf()))
    }
}

impl Stream {
    fn new(to: File, path: &Path) -> Result<Self> {
        let writable = crate::sys::write::is_writable(to.as_fd());
        match writable.map_err(|e| Error::os("fcntl", Some(path), e))? {
            true => Ok(Stream {
                to,
                path: path.to_path_buf(),
            }),
            false => {
                let source = io::Error::from_raw_os_error(libc::EBADF);
                Err(Error::os("write", Some(path), source))
            }
        }
    }

    fn write_out(self, bytes: &[u8], sync: bool) -> Result<()> {
        // What was printed before comes before.
        let _ = io::stdout().flush();
        let written = crate::sys::write::write_all(&self.to, bytes);
        written.map_err(|e| Error::os("write", Some(&self.path), e))?;
        match self.to.sync_all() {
            Err(e) if sync && e.raw_os_error() == Some(libc::EIO) => {
                Err(Error::os("fsync", Some(&self.path), e))
            }
            // Pipes and terminals have nothing to sync (EINVAL).
            _ => Ok(()),
        }
    }
}

// SAFETY: those of `store`, which promises the same.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Draft {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        self.store.start_and_len()
    }
}

impl_byte_slice!(Draft, debug: path);
impl_byte_slice_mut!(Draft);

impl Draft {
    /// Advice, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```
    /// let dir = tempfile::tempdir().expect("a directory");
    /// let draft = stillmap::Draft::create(dir.path().join("new"), 1 << 20)?;
    /// draft.pages().populate(..)?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        let pages = match &self.store {
            Store::Memory(memory) | Store::Sparse(memory) => memory.pages(),
            Store::Mapped { region, .. } => Pages::own(&self[..]).with_locks(region.locked_pages()),
        };
        pages.with_path(Some(self.output.path()))
    }
}
