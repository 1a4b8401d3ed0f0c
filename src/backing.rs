//! What keeps bytes from changing.

/// What keeps the bytes of a [`Snapshot`](crate::Snapshot), [`Private`](crate::Private) or
/// [`Exclusive`](crate::Exclusive) from being changed by other processes.
///
/// # Examples
/// ```
/// let small = stillmap::Snapshot::open("Cargo.toml")?;
/// assert_eq!(small.backing(), stillmap::Backing::Memory);
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// Memory of this process: the bytes were read, copied because a process opened the file, or
    /// [frozen](crate::Anonymous::freeze).
    Memory,
    /// A seal on a memfd, or fs-verity: the kernel refuses every change, for ever.
    Sealed,
    /// A file system whose driver never writes: squashfs, erofs, iso9660.
    ReadOnly,
    /// A lease: the kernel blocks a process that opens the file (for a snapshot: for writing) until the bytes are copied.
    Leased,
    /// A handle that shares reading only (Windows): every open for writing fails, and so do deleting and renaming.
    Locked,
    /// A reflink clone of the file without a name: it shares the blocks of the file until either is written.
    Cloned,
    /// A copy in an unnamed file on disk, since memory was short.
    Disk,
    /// Nothing but the caller's promise ([`Snapshot::map_unguarded`](crate::Snapshot::map_unguarded),
    /// [`Exclusive::map_unguarded`](crate::Exclusive::map_unguarded)).
    Unguarded,
}
