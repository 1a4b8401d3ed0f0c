//! Any input as bytes that do not change.

mod open;
mod options;

pub use options::{SnapshotOptions, SnapshotProgress};

use crate::backing::Backing;
use crate::bytes::{ByteSlice, impl_byte_slice};
use crate::held::{Held, Opened};
use crate::pages::Pages;
use crate::reason::Reason;
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
/// It is made by the first of these strategies that fits. All are sound; they differ in cost.
/// [`backing`](Snapshot::backing) returns which one was used, and [`reason`](Snapshot::reason) why not a better one:
///
/// 1. A pipe, FIFO, socket, terminal or character device, a file whose reported size is 0, and what the kernel generates
///    (`/proc`, `/sys`) is read to its end.
/// 2. A small file is read: up to 128 KiB always; up to 1 MiB while snapshots of that size have few bytes in all, since
///    reading into memory that was used before is faster than mapping.
/// 3. A memfd sealed against writing and shrinking, a file under fs-verity, and a file on squashfs, erofs or iso9660 is
///    mapped.
/// 4. On ext2/3/4, xfs, btrfs and f2fs a file that no process has open for writing is mapped under a read lease: the
///    kernel blocks a writer until the bytes are copied. The file must belong to the user of the process, or the process
///    must have CAP_LEASE. A lease keeps a descriptor open; the last quarter of the descriptors that the process may have
///    (`ulimit -n`), and the last eighth of its mappings, are not used for that.
/// 5. Where the file system can clone files (xfs, btrfs), a clone is mapped.
/// 6. Anything else is copied, into memory or, above [`memory_limit`](SnapshotOptions::memory_limit), to an unnamed file.
///
/// The address of the first byte has the same remainder as its offset in the file: modulo 64 for bytes in memory, modulo the
/// page size for bytes in a mapping. Dropping a snapshot frees its memory, mapping and lease at once. A forked child has the
/// same bytes. Sources: fcntl(2) on leases, ioctl_ficlone(2), memfd_create(2).
///
/// # Examples
/// ```
/// let manifest = stillmap::Snapshot::open("Cargo.toml")?;
/// assert!(manifest.starts_with(b"[package]"));
/// # Ok::<(), stillmap::Error>(())
/// ```
pub struct Snapshot {
    opened: Opened,
}

impl Snapshot {
    /// What keeps the bytes from changing now.
    ///
    /// # Examples
    /// ```
    /// println!("{:?}", stillmap::Snapshot::open("Cargo.toml")?.backing());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn backing(&self) -> Backing {
        self.opened.bytes.backing()
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
        match self.opened.bytes.leased_mapping() {
            Some(mapping) => mapping.reason(),
            None => self.opened.reason,
        }
    }

    /// True if the bytes are those of one moment of the file. False if its size, mtime or ctime changed while it was
    /// copied, or if the process was stopped for longer than `fs.lease-break-time`, so that the kernel ended the lease,
    /// and the file was changed. Always true for a stream; false for a file that was empty when it was opened, and written
    /// while it was read.
    ///
    /// A copy ([`backing`](Snapshot::backing) is `Memory` or `Disk`) can be a mixture although this is true, since some
    /// changes are not in the timestamps:
    /// - A write to a block device changes none.
    /// - A process that stores through a shared mapping does not change them while the page is dirty, and on tmpfs once the
    ///   page is mapped.
    /// - They move in steps. A second change within one step is not seen: of up to 10 ms before Linux 6.13, and later on file
    ///   systems other than ext4, xfs, btrfs and tmpfs; of 1 s on ext2, and with inodes of 128 bytes on ext3 and ext4; of 2 s
    ///   on FAT.
    /// - A write(2) changes them once, when it begins. A copy waits for a write(2) that is under way, but not for one that is
    ///   made with `O_DIRECT`, that began long ago (1 s, and 0.1 s for each MB of the file), or that goes to a file system of
    ///   another machine or of a process (FUSE).
    ///
    /// # Examples
    /// ```
    /// assert!(stillmap::Snapshot::open("Cargo.toml")?.is_consistent());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_consistent(&self) -> bool {
        match self.opened.bytes.leased_mapping() {
            Some(mapping) => mapping.is_consistent(),
            None => self.opened.is_consistent,
        }
    }

    /// Advice, prefetch, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::open("Cargo.toml")?;
    /// println!("{:60}", bytes.pages().residency(..)?);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        self.opened.bytes.pages()
    }

    fn new(opened: Opened) -> Self {
        Snapshot { opened }
    }

    /// Bytes of one moment that do not come from the ladder.
    pub(crate) fn from_held(held: Held) -> Self {
        Snapshot::from_copy(held, true)
    }

    /// A copy that does not come from the ladder; `is_consistent` is false if the source changed meanwhile.
    pub(crate) fn from_copy(held: Held, is_consistent: bool) -> Self {
        Snapshot::new(Opened {
            bytes: held,
            is_consistent,
            reason: None,
        })
    }
}

// SAFETY: the bytes of `opened`, which owns them and does not move them. Nothing changes them: see `Backing`.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Snapshot {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        self.opened.bytes.start_and_len()
    }
}

impl_byte_slice!(Snapshot, debug: backing, is_consistent, reason);
