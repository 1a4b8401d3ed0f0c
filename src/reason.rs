//! Why the bytes of a file were not mapped, or not leased.

use std::fmt;

/// Why a [`Snapshot`](crate::Snapshot) was read or copied and not mapped, or cloned and not leased.
///
/// Its [`Display`](fmt::Display) is a sentence that also says what would help, where something would.
///
/// # Examples
/// ```
/// use stillmap::Reason;
/// let small = stillmap::Snapshot::open("Cargo.toml")?;
/// assert_eq!(small.reason(), Some(Reason::Small));
/// assert!(small.reason().is_some_and(|reason| reason.to_string().contains("small")));
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The file is so small that reading it is faster than mapping it.
    Small,
    /// A pipe, socket, terminal or character device, or a file without pages: its size is reported as 0, or the kernel generates
    /// it (`/sys`).
    Stream,
    /// A FIFO that no process has open for writing; it was not waited for because of `size_limit`, `len`, `copy_limit` or
    /// `require_mapping`.
    NoWriter,
    /// A block device: nothing keeps other processes from writing to it.
    BlockDevice,
    /// The file belongs to another user, and the process does not have `CAP_LEASE`.
    OtherOwner,
    /// A process has the file open for writing, or mapped writable; it may be this process.
    OpenForWriting,
    /// On this file system nothing proves that the file stays as it is: an overlay (the root of most containers), also one
    /// that has no upper layer; tmpfs, FUSE, a network file system, and those that this crate does not know.
    FileSystem,
    /// Leases are off: `fs.leases-enable` is 0, or the lease-break time cannot be read.
    LeasesOff,
    /// The options turned leases off.
    NotAsked,
    /// The process has few descriptors left below its `RLIMIT_NOFILE`.
    Descriptors,
    /// The process has few mappings left below `vm.max_map_count`, or mmap(2) was refused.
    Mappings,
    /// The address space of the process is limited (`RLIMIT_AS`), and little of it is left.
    AddressSpace,
    /// No thread could be started to watch over leases.
    Threads,
    /// A seccomp filter or another security policy refuses leases.
    Refused,
    /// The file cannot be opened again through `/proc`, which is not mounted, or where the process may not open it.
    NotReopened,
    /// Other threads of the process forked each time that a lease was tried.
    Forking,
    /// A sealed memfd with holes: reading a mapping of it takes memory for each hole, beyond the memory limit.
    Sparse,
    /// On this platform files are read and not mapped.
    Platform,
    /// The file was leased; then a process opened it for writing, and the bytes were copied.
    Written,
    /// The file was leased; then the program [released its leases](crate::release_leases), and the bytes were copied.
    Released,
}

impl Reason {
    /// The sentence that its `Display` prints.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Reason::Small => "the file is small: reading it is faster than mapping it",
            Reason::Stream => "it has no size and can only be read to its end",
            Reason::NoWriter => "it is a FIFO that no process has open for writing",
            Reason::BlockDevice => {
                "it is a block device, and nothing keeps other processes from writing to it"
            }
            Reason::OtherOwner => {
                "the file belongs to another user; CAP_LEASE or fs-verity would help"
            }
            Reason::OpenForWriting => {
                "a process has the file open for writing; closing that descriptor would help"
            }
            Reason::FileSystem if cfg!(windows) => {
                "on this volume, or with the attributes of the file, nothing keeps it from changing; a local NTFS volume would help"
            }
            Reason::FileSystem => {
                "on this file system (an overlay, tmpfs, FUSE, a network or an unknown one) nothing keeps the file from changing; ext4, xfs, btrfs or f2fs, in a container as a volume, would help"
            }
            Reason::LeasesOff => "leases are off; the sysctl fs.leases-enable=1 would help",
            Reason::NotAsked => "the options turned leases off",
            Reason::Descriptors => {
                "the process has few descriptors left; raising RLIMIT_NOFILE (ulimit -n) would help"
            }
            Reason::Mappings => {
                "the process has few mappings left; raising vm.max_map_count would help"
            }
            Reason::AddressSpace => {
                "the process has little address space left; raising RLIMIT_AS (ulimit -v) would help"
            }
            Reason::Threads => "no thread could be started to watch over leases",
            Reason::Refused => {
                "a security policy refuses leases; a seccomp filter that allows fcntl(F_SETLEASE) would help"
            }
            Reason::NotReopened => {
                "the file could not be opened again by its descriptor, through /proc/self/fd; mounting /proc, or opening it by its path, would help"
            }
            Reason::Forking => "other threads of the process forked meanwhile",
            Reason::Sparse => {
                "it is a sealed memfd with holes, for which there is too little memory; raising memory_limit would help"
            }
            Reason::Platform => "on this platform files are read and not mapped",
            Reason::Written => "a process opened the file for writing while it was leased",
            Reason::Released => "the program released its leases",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
