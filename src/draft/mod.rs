//! A new file, which appears complete or not at all.

mod commit;
mod commit_error;
mod create;
mod file_rights;
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
pub use options::DraftOptions;

use crate::atfork::{NoFork, NotForChildren};
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use crate::page;
use crate::pages::Pages;
use crate::range::whole_pages;
use output::Output;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::NonNull;
use store::Store;

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
///   the old bytes, and watches (inotify) stay with the old file; see [`Replace::InPlace`](crate::Replace::InPlace).
/// - To a pipe, a terminal, `/dev/stdout` and any other file that is not regular, and to files of /proc and /sys, `commit`
///   writes the bytes.
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
    /// Depending on the store, forked children would share or copy the bytes; deny access in all cases.
    fn keep_from_children(&self) {
        let start = self.store.as_ptr().addr();
        let pages = page::align_up(self.store.len()).unwrap_or(0);
        self.not_for_children.set_range(start..start + pages);
        if let Output::New(file) = &self.output {
            self.not_for_children.set_descriptor(file.file().as_fd());
        }
    }

    /// Before the bytes move, or the file is closed. While the result lives, a fork waits.
    fn release_to_children(&self) -> Option<NoFork> {
        let no_fork = self.not_for_children.clear_range();
        self.not_for_children.clear_descriptor();
        no_fork
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
        whole_pages(len, page::size()).map_err(|e| self.output.add_path(e))?;
        let _no_fork = self.release_to_children();
        let resized = self.output.resize(&mut self.store, len, &self.options);
        self.keep_from_children();
        resized.map_err(|e| self.output.add_path(e))
    }

    /// Releases the spare space that io::Write has reserved.
    fn trim(&mut self) -> Result<()> {
        if self.store.len() == self.len {
            return Ok(());
        }
        self.resize_store(self.len)
    }

    /// The file before it is published, open for reading only: to set its times, owner, mode and extended attributes. They
    /// are kept, also when a commit fails, and not copied from the file that is replaced.
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
