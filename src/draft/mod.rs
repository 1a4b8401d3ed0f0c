//! A new file, which appears complete or not at all.

mod commit_error;
mod in_place;
mod new_file;
mod options;
mod output;
mod publish;
mod rights;
mod stdio;
mod store;
mod stream;
mod target;
mod temp_file;

pub use commit_error::CommitError;
pub use options::{DraftOptions, Replace};

use crate::atfork::NotForChildren;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use crate::page;
use crate::pages::Pages;
use crate::snapshot::Snapshot;
use output::Output;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::NonNull;
use store::Store;
use stream::Stream;
use target::Target;

/// A new file for a path. It becomes visible only when it is complete.
///
/// ```text
///   create        an unnamed file beside the target, its space reserved; the target is as it was
///      |          bytes are written here, through &mut [u8] or io::Write
///   commit        durable, then visible, in one step
///   (or drop)     no trace
/// ```
/// A process that is killed at any moment leaves the old file or the new one under the path, complete. What each step
/// promises when the power fails, and what it does not, is in [`docs::durability`](crate::docs::durability).
///
/// - A full disk is an error of [`create`](Draft::create) or [`resize`](Draft::resize), wherever the file system can
///   reserve space; elsewhere of [`commit`](Draft::commit), which gives the draft back. It is never a signal.
/// - A new file has the owner, the mode and the ACL that [`File::create`] gives. A file that replaces another one has
///   that one's owner, group, mode, ACL and extended attributes (but not its capabilities). What this process may not
///   copy is left out, and gives no user more access; see [`DraftOptions::require_attributes`].
/// - A symbolic link at the path is followed, where the kernel would follow it. Other hard links to the old file keep
///   the old bytes, and watches (inotify) stay with the old file; see [`Replace::InPlace`].
/// - What is not a regular file (a pipe, a terminal, `/dev/stdout`), and files of /proc and /sys, get the bytes written
///   out by `commit`.
/// - A program at the path can be started at any moment: no descriptor is open for writing when the file becomes
///   visible (`ETXTBSY`).
/// - The bytes are zero at first. They are kept in memory, or, if they are more than the
///   [memory limit](DraftOptions::memory_limit), in the unnamed file itself. Like all memory of this process, they can
///   be reached through `/proc` by other processes of the same user.
/// - It belongs to the process that made it. A forked child does not get the bytes: touching them there is SIGSEGV, and
///   `resize` and `commit` fail with [`WrongProcess`](Error::WrongProcess).
///
/// Where the kernel has no unnamed files (`O_TMPFILE`), a hidden file beside the target takes the place of one:
/// `.NAME.stillmap-draft.RANDOM`, which only the user can open. Dropping removes it; a process that is killed leaves it.
///
/// # Examples
/// ```
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("greeting");
/// let mut draft = stillmap::Draft::create(&path, 5)?;
/// draft.copy_from_slice(b"hello");
/// assert!(!path.exists());
/// draft.commit()?;
/// assert_eq!(std::fs::read(&path)?, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias("atomic", "O_TMPFILE"))]
#[must_use = "a draft that is dropped writes nothing"]
pub struct Draft {
    /// First: it is dropped before the bytes are unmapped and the file is closed.
    not_for_children: NotForChildren,
    /// At least `len` bytes; those behind `len` are zero.
    store: Store,
    len: usize,
    /// The position of io::Write.
    position: u64,
    output: Output,
    options: DraftOptions,
}

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
    /// As [`create`](Draft::create) and [`Snapshot::open`]; [`Error::NotMappable`] for what is not a regular file.
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
        let output = Output::create(target, &options)?;
        Draft::with_output(options, output, len)
    }

    fn edit_with(options: DraftOptions, path: &Path) -> Result<Self> {
        let target = Target::resolve(path, false)?;
        let mut output = Output::create(target, &options)?;
        let source = output.open_source()?;
        let old = Snapshot::from_fd(&source).map_err(|e| output.add_path(e))?;
        if options.fits_in_memory(old.len()) && !options.sparse {
            output.clone_from(&source);
        }
        let mut draft = Draft::with_output(options, output, old.len())?;
        draft.copy_from_slice(&old);
        Ok(draft)
    }

    fn with_output(options: DraftOptions, mut output: Output, len: usize) -> Result<Self> {
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

    /// Depending on the store, forked children would share or copy the bytes; deny access in all cases.
    fn keep_from_children(&self) {
        let start = self.store.as_ptr().addr();
        let pages = page::align_up(self.store.len()).unwrap_or(0);
        self.not_for_children.set_range(start..start + pages);
        if let Output::New(file) = &self.output {
            self.not_for_children.set_descriptor(file.file().as_fd());
        }
    }

    /// Before the bytes move, or the file is closed.
    fn release_to_children(&self) {
        self.not_for_children.clear_range();
        self.not_for_children.clear_descriptor();
    }

    /// A forked child must not change its parent's file.
    fn check_process(&self) -> Result<()> {
        if self.not_for_children.is_of_this_process() {
            return Ok(());
        }
        Err(Error::wrong_process(Some(self.output.path())))
    }

    /// Makes it longer or shorter. New bytes are zero.
    ///
    /// # Errors
    /// As [`create`](Draft::create); the draft is then as it was.
    ///
    /// # Examples
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let mut draft = stillmap::Draft::create(directory.path().join("list"), 2)?;
    /// draft.copy_from_slice(b"ab");
    /// draft.resize(3)?;
    /// assert_eq!(&draft[..], b"ab\0");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn resize(&mut self, len: usize) -> Result<()> {
        self.check_process()?;
        if len != self.store.len() {
            self.resize_store(len)?;
        }
        self.len = len;
        Ok(())
    }

    fn resize_store(&mut self, len: usize) -> Result<()> {
        self.check_process()?;
        self.release_to_children();
        let resized = self.output.resize(&mut self.store, len, &self.options);
        self.keep_from_children();
        resized.map_err(|e| self.output.add_path(e))
    }

    /// Makes the file durable, then visible under its path, in one step; what is not a regular file gets the bytes
    /// written out. When it returns, the file survives a loss of power, unless [`durable`](DraftOptions::durable) is false.
    ///
    /// # Errors
    /// [`CommitError`], which gives the draft back. The path is then as it was and no trace is left, with three
    /// exceptions: the last step, an `fsync` of the directory, comes when the file is visible already; a pipe may have
    /// got a part of the bytes (`EPIPE` if it has no reader, without a signal); a file that is written
    /// [in place](Replace::InPlace) may be a mixture.
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
        let moved = self.move_to(path.as_ref());
        match moved.and_then(|()| self.try_commit()) {
            Ok(()) => Ok(()),
            Err(error) => Err(CommitError { error, draft: self }),
        }
    }

    fn move_to(&mut self, path: &Path) -> Result<()> {
        self.check_process()?;
        self.trim()?;
        self.release_to_children();
        let moved = self.output.move_to(path, &mut self.store, &self.options);
        self.keep_from_children();
        moved
    }

    /// Releases the spare space that io::Write has reserved.
    fn trim(&mut self) -> Result<()> {
        if self.store.len() == self.len {
            return Ok(());
        }
        self.resize_store(self.len)
    }

    fn try_commit(&mut self) -> Result<()> {
        self.check_process()?;
        self.trim()?;
        self.release_to_children();
        let done = self.output.commit(&mut self.store, &self.options);
        if done.is_err() {
            // Less than before, if the file was visible when the last step failed, and there was no memory.
            self.len = self.len.min(self.store.len());
            self.keep_from_children();
        }
        done
    }

    /// The file before it is published, open for reading only: to set its times, owner, mode and extended attributes.
    /// What was set here is not taken from the file that is replaced.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a draft in place, and without /proc; [`Error::Os`].
    ///
    /// # Examples
    /// ```
    /// let directory = tempfile::tempdir()?;
    /// let path = directory.path().join("old");
    /// let draft = stillmap::Draft::create(&path, 3)?;
    /// draft.file()?.set_modified(std::time::UNIX_EPOCH)?;
    /// draft.commit()?;
    /// assert_eq!(path.metadata()?.modified()?, std::time::UNIX_EPOCH);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("fchmod", "fchown", "futimens", "fsetxattr"))]
    pub fn file(&self) -> Result<&File> {
        self.check_process()?;
        self.output.file()
    }
}

impl Draft {
    fn path(&self) -> &Path {
        self.output.path()
    }
}

// SAFETY: the bytes of `store`, which promises the same for at least as many.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Draft {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        let (start, len) = self.store.start_and_len();
        (start, self.len.min(len))
    }
}

impl_byte_slice!(Draft, debug: path);
impl_byte_slice_mut!(Draft);

impl Draft {
    /// Advice, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```
    /// let directory = tempfile::tempdir().expect("a directory");
    /// let draft = stillmap::Draft::create(directory.path().join("new"), 1 << 20)?;
    /// draft.pages().populate(..)?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        let pages = match &self.store {
            Store::Memory(memory) | Store::Sparse(memory) => memory.pages_of(self.len),
            Store::Mapped { region, .. } | Store::Detached { region, .. } => {
                Pages::own(&self[..]).with_locks(region.locked_pages())
            }
        };
        pages.with_path(Some(self.output.path()))
    }
}
