//! Any input as bytes that do not change.

mod mapping;
mod options;

pub use options::{SnapshotOptions, SnapshotProgress};

use crate::backing::Backing;
use crate::buffer::Buffer;
use crate::bytes::{ByteSlice, impl_byte_slice};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::ladder::{Held, Opened};
use crate::lease::read::LeasedMapping;
use crate::reason::Reason;
use crate::region::Region;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;

/// The bytes of a path, standard input, a pipe or any descriptor, read-only. They never change, whatever other processes
/// do to the file.
///
/// ```text
///   page boundary                                      page boundary
///   |<------------------- mapped ----------------------->|
///   |        |<------------ the bytes --------->|        |
///            offset                  not part of the slice: outside the window, or past the end of the file
/// ```
/// It is made by the first of these strategies that fits. All are sound; they differ in cost, and
/// [`backing`](Snapshot::backing) returns which one it was, [`reason`](Snapshot::reason) why not a better one:
///
/// 1. A pipe, FIFO, socket, terminal or character device, and a file of size 0 (as those of `/proc` say they are), is read
///    to its end.
/// 2. A small file is read: up to 128 KiB always; up to 1 MiB while few of this size are held, since reading into memory
///    that was used before is faster than mapping.
/// 3. A memfd sealed against writing and shrinking, a file under fs-verity, and a file on squashfs, erofs or iso9660 is
///    mapped.
/// 4. On ext2/3/4, xfs, btrfs and f2fs a file that no process has open for writing is mapped under a read lease: the
///    kernel blocks a writer until the bytes are copied. The file must belong to the user of the process, or the process
///    have CAP_LEASE. A lease holds an open descriptor; the last quarter of those that the process may have
///    (`ulimit -n`), and the last eighth of its mappings, are not used for that.
/// 5. Where the file system can clone files (xfs, btrfs), a clone is mapped.
/// 6. Anything else is copied, into memory or, above [`memory_limit`](SnapshotOptions::memory_limit), to an unnamed file.
///
/// What was read into memory starts at a multiple of 64; a mapping, at the file's offset modulo the page size. Dropping
/// it frees everything at once. A forked child has the same bytes. Sources: fcntl(2) on leases, ioctl_ficlone(2),
/// memfd_create(2).
///
/// # Examples
/// ```
/// let manifest = stillmap::Snapshot::open("Cargo.toml")?;
/// assert!(manifest.starts_with(b"[package]"));
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Snapshot {
    start: NonNull<u8>,
    len: usize,
    store: Store,
    is_consistent: bool,
    reason: Option<Reason>,
}

/// The owner of the bytes.
enum Store {
    Memory(Buffer),
    Mapped(Region, Backing),
    Leased(LeasedMapping),
}

// SAFETY: the bytes are only ever read through it, and they do not change: that is what `Backing` says.
#[allow(unsafe_code)]
unsafe impl Send for Snapshot {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Snapshot {}

impl Snapshot {
    /// The bytes of a file, from its start to its end.
    ///
    /// # Errors
    /// [`Error::IsDirectory`](crate::Error::IsDirectory); [`Error::TooLarge`](crate::Error::TooLarge) for an input
    /// of more bytes than half of the available memory; [`Error::Os`](crate::Error::Os) for what the kernel refused.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::open("Cargo.toml")?;
    /// assert_eq!(&bytes[..], std::fs::read("Cargo.toml").unwrap());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Snapshot::options().open(path)
    }

    /// The bytes of standard input, from its current offset to its end.
    ///
    /// What [`std::io::stdin`] has buffered already is not among them.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    ///
    /// # Examples
    /// ```no_run
    /// let bytes = stillmap::Snapshot::stdin()?;
    /// println!("{} bytes", bytes.len());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn stdin() -> Result<Self> {
        Snapshot::options().stdin()
    }

    /// The bytes of a file, or of standard input if the path is `-`.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    ///
    /// # Examples
    /// ```no_run
    /// let input = std::env::args_os().nth(1).unwrap_or("-".into());
    /// println!("{} bytes", stillmap::Snapshot::open_or_stdin(input)?.len());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open_or_stdin<P: AsRef<Path>>(path: P) -> Result<Self> {
        if path.as_ref() == Path::new("-") {
            Snapshot::stdin()
        } else {
            Snapshot::open(path)
        }
    }

    /// The bytes of an open descriptor, from its current offset to its end; the offset is moved to the end, as by reading.
    /// The descriptor may be closed afterwards. For the whole file, see [`from_file`](Snapshot::from_file).
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    ///
    /// # Examples
    /// ```
    /// use std::io::Write;
    /// let (reader, mut writer) = std::os::unix::net::UnixStream::pair()?;
    /// writer.write_all(b"through a socket")?;
    /// drop(writer);
    /// assert_eq!(&stillmap::Snapshot::from_fd(reader)?[..], b"through a socket");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(fd: F) -> Result<Self> {
        Snapshot::options().from_fd(fd)
    }

    /// The bytes of a file that is open for reading, from its start to its end, wherever its offset is; the offset is
    /// neither read nor moved. The file may be closed afterwards.
    ///
    /// While `file` is open for writing, its bytes are copied: it might be written to. A file that is not needed any
    /// more can be given up with [`TryFrom`](Snapshot#impl-TryFrom<File>-for-Snapshot), and is mapped then.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    ///
    /// # Examples
    /// ```
    /// use std::io::Write;
    /// let mut file = tempfile::tempfile()?;
    /// file.write_all(b"the offset is at the end")?;
    /// assert_eq!(stillmap::Snapshot::from_file(&file)?.len(), 24);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_file<F: AsFd>(file: F) -> Result<Self> {
        Snapshot::options().from_file(file)
    }

    /// The window, the limits, and which strategies are allowed.
    ///
    /// # Examples
    /// ```
    /// let window = stillmap::Snapshot::options().offset(1).len(7).open("Cargo.toml")?;
    /// assert_eq!(&window[..], b"package");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn options() -> SnapshotOptions {
        SnapshotOptions::default()
    }

    /// What keeps the bytes from changing now.
    ///
    /// # Examples
    /// ```
    /// println!("{:?}", stillmap::Snapshot::open("Cargo.toml")?.backing());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn backing(&self) -> Backing {
        match &self.store {
            Store::Memory(_) => Backing::Memory,
            Store::Mapped(_, backing) => *backing,
            Store::Leased(mapping) => mapping.backing(),
        }
    }

    /// Why the bytes are not mapped, or are mapped and not leased; `None` if they are sealed, leased, read-only or
    /// unguarded, and for memory that was [frozen](crate::Anonymous::freeze).
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Reason, Snapshot};
    /// let bytes = Snapshot::open("/proc/version")?;
    /// assert_eq!(bytes.reason(), Some(Reason::Stream));
    /// if let Some(reason) = bytes.reason() {
    ///     println!("copied, since {reason}");
    /// }
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn reason(&self) -> Option<Reason> {
        match &self.store {
            Store::Leased(mapping) => mapping.reason(),
            _ => self.reason,
        }
    }

    /// True if the bytes are those of one moment of the file. False if its size, mtime or ctime changed while it was
    /// copied, or if the process was stopped for longer than `fs.lease-break-time`, so that the kernel ended the lease,
    /// and the file was changed. Always true for a stream.
    ///
    /// # Examples
    /// ```
    /// assert!(stillmap::Snapshot::open("Cargo.toml")?.is_consistent());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_consistent(&self) -> bool {
        match &self.store {
            Store::Leased(mapping) => mapping.is_consistent(),
            Store::Memory(_) | Store::Mapped(..) => self.is_consistent,
        }
    }

    /// Maps a whole file, wherever the descriptor's offset is, without protection against changes: for files
    /// that the caller knows not to change, where they would be copied otherwise. A window can be mapped with
    /// [`SnapshotOptions::map_unguarded`].
    ///
    /// # Errors
    /// [`Error::NotMappable`] for what is not a regular file; [`Error::Os`] for what the kernel refused.
    ///
    /// # Safety
    /// As long as the snapshot lives, no process, this one included, writes to the file, truncates it, or punches holes
    /// into it. Otherwise bytes change under a `&[u8]`, which is undefined behaviour, or the process dies of SIGBUS.
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// // SAFETY: no process edits the manifest while its tests run.
    /// let bytes = unsafe { stillmap::Snapshot::map_unguarded(&file) }?;
    /// assert!(bytes.starts_with(b"[package]"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFd>(fd: F) -> Result<Self> {
        // SAFETY: the caller's promise is the same.
        unsafe { Snapshot::options().map_unguarded(fd) }
    }

    fn new(opened: Opened) -> Self {
        let snapshot = match opened.bytes {
            Held::Buffer(buffer) => Snapshot::memory(buffer),
            Held::Mapped {
                region,
                delta,
                len,
                backing,
            } => Snapshot::mapped(region, delta, len, backing),
            Held::Leased {
                mapping,
                delta,
                len,
            } => Snapshot::leased(mapping, delta, len),
        };
        Snapshot {
            is_consistent: opened.is_consistent,
            reason: opened.reason,
            ..snapshot
        }
    }

    /// A copy of bytes that other processes may have written to meanwhile.
    pub(crate) fn from_copy(copy: Buffer, is_consistent: bool) -> Self {
        Snapshot {
            is_consistent,
            ..Snapshot::memory(copy)
        }
    }

    pub(crate) fn memory(memory: Buffer) -> Self {
        Snapshot {
            start: memory.start(),
            len: memory.len(),
            store: Store::Memory(memory),
            is_consistent: true,
            reason: None,
        }
    }

    /// `len` bytes from `delta` on, in a mapping under a lease.
    fn leased(mapping: LeasedMapping, delta: usize, len: usize) -> Self {
        // SAFETY: `delta` lies inside the mapping, whose address does not change.
        #[allow(unsafe_code)]
        let start = unsafe { mapping.start().add(delta) };
        Snapshot {
            start,
            len,
            store: Store::Leased(mapping),
            is_consistent: true,
            reason: None,
        }
    }

    /// `len` bytes from `delta` on, in a mapping whose bytes do not change.
    pub(crate) fn mapped(region: Region, delta: usize, len: usize, backing: Backing) -> Self {
        debug_assert!(delta + len <= region.len());
        // SAFETY: `delta` lies inside the mapping.
        #[allow(unsafe_code)]
        let start = unsafe { region.start().add(delta) };
        Snapshot {
            start,
            len,
            store: Store::Mapped(region, backing),
            is_consistent: true,
            reason: None,
        }
    }
}

// SAFETY:
// - `start..start+len` was initialised by a read, or is mapped inside the file; `store` owns it, and does not move it.
// - Nothing changes it while the value lives: see `Backing`.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Snapshot {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        (self.start, self.len)
    }
}

impl_byte_slice!(Snapshot, debug: backing, is_consistent, reason);

/// The whole file, wherever its offset is. The descriptor is given up, so a file that only this process had open for
/// writing can be leased.
impl TryFrom<File> for Snapshot {
    type Error = Error;

    fn try_from(file: File) -> Result<Self> {
        Snapshot::options().open_source(Source::from_owned(file), &mut |_, _| ())
    }
}

/// As from a [`File`].
impl TryFrom<OwnedFd> for Snapshot {
    type Error = Error;

    fn try_from(fd: OwnedFd) -> Result<Self> {
        Snapshot::try_from(File::from(fd))
    }
}
