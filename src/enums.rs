//! Public enums of every platform: kinds of pages, ways to replace a file, and how a file has changed.

use std::ops::Range;

/// The kind of pages.
///
/// On platforms other than Linux [`Transparent`](HugePages::Transparent) is the same as [`System`](HugePages::System), and
/// [`Reserved`](HugePages::Reserved) fails with [`Error::Unsupported`](crate::Error::Unsupported).
///
/// Source: madvise(2), mmap(2) on `MAP_HUGETLB`.
///
/// # Examples
/// ```
/// use stillmap::{Anonymous, HugePages};
/// let memory = Anonymous::options().huge_pages(HugePages::Transparent).allocate(64 << 20)?;
/// assert!(memory.iter().all(|&byte| byte == 0));
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HugePages {
    /// The setting of the system (`/sys/kernel/mm/transparent_hugepage/enabled`).
    #[default]
    System,
    /// Small pages only (`MADV_NOHUGEPAGE`).
    Never,
    /// Huge pages where the kernel has them available, one fault for each (`MADV_HUGEPAGE`); else small ones. For
    /// shared memory `shmem_enabled` in the same directory decides.
    Transparent,
    /// Huge pages of the reserved pool (`vm.nr_hugepages`), or an error (`MAP_HUGETLB`).
    ///
    /// A forked child has pages of its own only as far as the pool has some left: beyond that, a store to private memory of
    /// this kind, by the child or by its parent, makes the page raise SIGBUS in the child.
    Reserved,
}

/// How [`Draft::commit`](crate::Draft::commit) puts the new bytes in the place of a file that exists.
///
/// | | [`Rename`](Replace::Rename) | [`InPlace`](Replace::InPlace) |
/// |---|---|---|
/// | readers see | the old bytes or the new ones | for a while, a mixture of both |
/// | after a crash in `commit` | the old bytes or the new ones | perhaps a mixture |
/// | inode, hard links, watches (inotify), open descriptors | stay with the old file | stay with the path |
/// | a file that is a mount point (`docker run -v FILE`) | cannot be replaced | is written |
/// | needs | write permission for the directory | write permission for the file |
///
/// # Examples
/// ```
/// use std::os::unix::fs::MetadataExt;
/// use stillmap::{Draft, Replace};
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("settings");
/// std::fs::write(&path, "old and long")?;
/// let inode = path.metadata()?.ino();
/// let mut draft = Draft::options().replace(Replace::InPlace).create(&path, 3)?;
/// draft.copy_from_slice(b"new");
/// draft.commit()?;
/// assert_eq!(std::fs::read(&path)?, b"new");
/// assert_eq!(path.metadata()?.ino(), inode);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Replace {
    /// A new file takes the path in one step: rename(2).
    #[default]
    Rename,
    /// The bytes are written over those of the file. A path without a file gets a new one, as with
    /// [`Rename`](Replace::Rename).
    InPlace,
    /// [`Rename`](Replace::Rename), or [`InPlace`](Replace::InPlace) where a rename is not possible: for a mount point, or
    /// in a directory that may not be written to. A file with several hard links is renamed; the others keep the old bytes.
    RenameOrInPlace,
}

/// What [`Live::refresh`](crate::Live::refresh) found, in bytes of the file.
///
/// # Examples
/// ```
/// use stillmap::{Change, Live};
/// use std::io::Write;
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("log");
/// let mut log = std::fs::File::create(&path)?;
/// log.write_all(b"one\n")?;
/// let mut live = Live::open(&path)?;
/// assert_eq!(live.refresh()?, Change::Same);
/// log.write_all(b"two\n")?;
/// assert_eq!(live.refresh()?, Change::Grown(4..8));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Change {
    /// The length is the same. Bytes may have been overwritten.
    Same,
    /// These bytes were added.
    Grown(Range<usize>),
    /// These bytes are gone.
    Cut(Range<usize>),
    /// The file was truncated, or its device failed, while it was read. It may have been rewritten since: any byte that
    /// was read before may be different now.
    PagesLost,
}
