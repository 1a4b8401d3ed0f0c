//! What keeps bytes from changing.

/// What keeps the bytes of a [`Snapshot`](crate::Snapshot) as they are.
///
/// # Examples
/// ```
/// let small = stillmap::open("Cargo.toml")?;
/// assert_eq!(small.backing(), stillmap::Backing::Memory);
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backing {
    /// Memory of our own: they were read, copied when a writer came, or [frozen](crate::Anonymous::freeze).
    Memory,
    /// A seal on a memfd, or fs-verity: the kernel lets nobody change them, ever.
    Sealed,
    /// A read lease: the kernel holds a writer back until they are copied.
    Leased,
    /// A reflink clone of the file, unnamed: it shares the blocks of the file until either is written.
    Cloned,
    /// A copy in an unnamed file on disk: too large for memory.
    Disk,
    /// Nothing but the caller's word ([`Snapshot::map_unguarded`](crate::Snapshot::map_unguarded)).
    Unguarded,
}
