//! What keeps bytes from changing.

/// What keeps the bytes of a [`Snapshot`](crate::Snapshot) or [`Private`](crate::Private) from changing.
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
    /// Memory of this process: the bytes were read, copied when a writer came, or
    /// [frozen](crate::Anonymous::freeze).
    Memory,
    /// A seal on a memfd, or fs-verity: the kernel lets no process change them, ever.
    Sealed,
    /// A file system whose driver never writes: squashfs, erofs, iso9660.
    ReadOnly,
    /// A read lease: the kernel blocks a writer until the bytes are copied.
    Leased,
    /// A handle that shares reading only (Windows): every open for writing fails, and so do deleting and renaming.
    Locked,
    /// A reflink clone of the file without a name: it shares the blocks of the file until either is written.
    Cloned,
    /// A copy in an unnamed file on disk: too large for memory.
    Disk,
    /// Nothing but the caller's promise ([`Snapshot::map_unguarded`](crate::Snapshot::map_unguarded)).
    Unguarded,
}
