//! Any input as bytes that do not change.

mod file;
mod freeze;
mod mapping;
mod options;
mod stream;

pub use options::SnapshotOptions;

use crate::backing::Backing;
use crate::buffer::Buffer;
use crate::error::Result;
use crate::input::Source;
use crate::lease::read::Guarded;
use crate::region::Region;
use std::fmt;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::NonNull;

/// The bytes of a path, stdin, a pipe or any descriptor, read-only: they never change, whoever writes to the file.
///
/// ```text
///   page boundary                                      page boundary
///   |<------------------- mapped ----------------------->|
///   |        |<------------ the bytes --------->|        |
///            offset                  never shown: past the window or the end of the file
/// ```
/// The first rung of this ladder that fits is taken; every rung is sound, they differ in cost only, and
/// [`backing`](Snapshot::backing) tells which it was:
///
/// 1. What has no offsets (`lseek` fails: pipe, FIFO, socket, terminal), a character device, and a file of size 0
///    (as those of `/proc` say they are) is read to its end.
/// 2. A small file is read: up to 32 KiB always; up to 1 MiB while snapshots hold no more than 4 MiB in the heap, since
///    memory that was used before is filled faster than a mapping is made.
/// 3. A memfd sealed against writing and shrinking, or a file under fs-verity, is mapped.
/// 4. On ext2/3/4, xfs, btrfs and f2fs a file that nobody has open for writing is mapped under a read lease: a
///    writer that comes is held by the kernel until the bytes have been put elsewhere, which takes as long as copying
///    them. The file must be the user's own (or CAP_LEASE be held). It takes an open descriptor as long as it lives; the last
///    quarter of those that the process may have (`ulimit -n`) is not used for that.
/// 5. Where the file system can clone files (xfs, btrfs), a clone is mapped.
/// 6. Anything else is copied, into memory or, above [`memory_limit`](SnapshotOptions::memory_limit), to an unnamed file.
///
/// What was read into memory starts at a multiple of 64; a mapping, at the file's offset modulo the page size.
/// Dropping it gives everything back at once. After a raw `fork` a leased snapshot is not in the child; see
/// [`across_fork`](SnapshotOptions::across_fork). Sources: fcntl(2) on leases, ioctl_ficlone(2), memfd_create(2).
///
/// # Examples
/// ```
/// let manifest = stillmap::open("Cargo.toml")?;
/// assert!(manifest.starts_with(b"[package]"));
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Snapshot {
    start: NonNull<u8>,
    len: usize,
    store: Store,
    intact: bool,
}

/// Who owns the bytes.
enum Store {
    Memory(Buffer),
    Mapped(
        #[allow(dead_code, reason = "held for its drop")] Region,
        Backing,
    ),
    Leased(Guarded),
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
    /// that goes on beyond half of the available memory; [`Error::Os`](crate::Error::Os) for what the kernel refused.
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

    /// The bytes of an open descriptor, from its current offset to its end; the offset is left there, as reading
    /// would leave it. The descriptor may be closed afterwards.
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

    /// Windows, limits, and which rungs of the ladder may be taken.
    ///
    /// # Examples
    /// ```
    /// let window = stillmap::Snapshot::options().offset(1).len(7).open("Cargo.toml")?;
    /// assert_eq!(&window[..], b"package");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn options<'a>() -> SnapshotOptions<'a> {
        SnapshotOptions::default()
    }

    /// What keeps the bytes as they are, now.
    ///
    /// # Examples
    /// ```
    /// println!("{:?}", stillmap::open("Cargo.toml")?.backing());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn backing(&self) -> Backing {
        match &self.store {
            Store::Memory(_) => Backing::Memory,
            Store::Mapped(_, backing) => *backing,
            Store::Leased(guarded) => guarded.backing(),
        }
    }

    /// True if the bytes are one moment of the file; false if it changed while it was copied, as far as its size,
    /// mtime and ctime tell, or if the kernel took the lease away from a process that was stopped for longer than
    /// `fs.lease-break-time`, and the file was touched. What was read from a stream is always intact.
    ///
    /// # Examples
    /// ```
    /// assert!(stillmap::open("Cargo.toml")?.is_intact());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_intact(&self) -> bool {
        match &self.store {
            Store::Leased(guarded) => guarded.is_intact(),
            Store::Memory(_) | Store::Mapped(..) => self.intact,
        }
    }

    /// Maps a whole file, wherever the descriptor's offset is, with nothing to guard it: for files that the caller
    /// knows to stay as they are, on file systems where nothing better than a copy can be had.
    ///
    /// # Errors
    /// [`Error::NotMappable`](crate::Error::NotMappable) for what is not a regular file;
    /// [`Error::Os`](crate::Error::Os) for what the kernel refused.
    ///
    /// # Safety
    /// As long as the snapshot lives, nobody may write to the file, truncate it, or punch holes into it, in this
    /// process or in any other. Otherwise bytes change under a `&[u8]`, which is undefined behaviour, or the process
    /// dies of SIGBUS.
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// // SAFETY: nobody edits the manifest while its tests run.
    /// let bytes = unsafe { stillmap::Snapshot::map_unguarded(&file) }?;
    /// assert!(bytes.starts_with(b"[package]"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFd>(fd: F) -> Result<Self> {
        file::map_unguarded(&Source::descriptor(fd.as_fd()))
    }

    fn memory(memory: Buffer, intact: bool) -> Self {
        Snapshot {
            start: memory.start(),
            len: memory.len(),
            store: Store::Memory(memory),
            intact,
        }
    }

    /// `len` bytes from `delta` on, in a mapping that the keeper answers for.
    fn leased(guarded: Guarded, delta: usize, len: usize) -> Self {
        // SAFETY: `delta` lies inside the mapping, which keeps its place.
        #[allow(unsafe_code)]
        let start = unsafe { guarded.start().add(delta) };
        Snapshot {
            start,
            len,
            store: Store::Leased(guarded),
            intact: true,
        }
    }

    /// `len` bytes from `delta` on, in a mapping whose bytes do not change.
    fn mapped(region: Region, delta: usize, len: usize, backing: Backing) -> Self {
        debug_assert!(delta + len <= region.len());
        // SAFETY: `delta` lies inside the mapping.
        #[allow(unsafe_code)]
        let start = unsafe { region.start().add(delta) };
        Snapshot {
            start,
            len,
            store: Store::Mapped(region, backing),
            intact: true,
        }
    }
}

impl Deref for Snapshot {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY:
        // - `start..start+len` was initialised by a read, or is mapped inside the file; `store` owns it.
        // - Nobody changes it while `self` lives: see `Backing`.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.len)
        }
    }
}

impl AsRef<[u8]> for Snapshot {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Says how many bytes, not which.
impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("len", &self.len)
            .field("backing", &self.backing())
            .field("intact", &self.is_intact())
            .finish()
    }
}
