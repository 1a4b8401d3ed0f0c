//! Which file system a file is on, and what is known of it.

use crate::sys::{file, statfs};
use std::io;
use std::os::fd::BorrowedFd;

/// Those of which something is known, by the magic number of fstatfs(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSystem {
    /// ext2, ext3, ext4.
    Ext,
    Xfs,
    Btrfs,
    F2fs,
    /// Where memfds are, too.
    Tmpfs,
    Hugetlbfs,
    Overlayfs,
    /// /proc and /sys: the kernel itself, or a device.
    Kernel,
    Other,
}

impl FileSystem {
    /// Where an open file is.
    pub(crate) fn from_fd(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(match statfs::magic(fd)? {
            0xef53 => FileSystem::Ext,
            0x5846_5342 => FileSystem::Xfs,
            0x9123_683e => FileSystem::Btrfs,
            0xf2f5_2010 => FileSystem::F2fs,
            0x0102_1994 => FileSystem::Tmpfs,
            0x9584_58f6 => FileSystem::Hugetlbfs,
            0x794c_7630 => FileSystem::Overlayfs,
            0x9fa0 | 0x6265_6572 => FileSystem::Kernel,
            _ => FileSystem::Other,
        })
    }

    /// True where a lease proves that nobody can change the file. A lease may be granted elsewhere, and prove nothing:
    /// on overlayfs (the file below can be written to), procfs and sysfs (no file is behind them), FUSE, network file
    /// systems; and on tmpfs, where io_uring writes to pages that it was given before (`IORING_REGISTER_BUFFERS`)
    /// whoever holds a lease, and where a hole of a file is a SIGBUS once there is no space.
    pub(crate) fn keeps_leases(self) -> bool {
        use FileSystem::*;
        matches!(self, Ext | Xfs | Btrfs | F2fs)
    }

    /// True for those with reflinks whose files nobody but this kernel can reach.
    pub(crate) fn may_clone(self) -> bool {
        matches!(self, FileSystem::Xfs | FileSystem::Btrfs)
    }

    /// True where an unnamed file is ours alone: not where a network or another program serves it.
    pub(crate) fn is_local(self) -> bool {
        use FileSystem::*;
        !matches!(self, Hugetlbfs | Kernel | Other)
    }

    /// True for those that keep their word that stores into granted blocks cannot fail: they write them in place.
    /// btrfs writes every page to a new place, which a full disk does not have; of the others we do not know.
    pub(crate) fn writes_in_place(self) -> bool {
        use FileSystem::*;
        matches!(self, Ext | Xfs | Tmpfs)
    }

    /// True if no process can ever again change or shorten the memfd behind `fd` (memfd_create(2), Linux 3.17).
    /// Only tmpfs has seals that are used here: a sealed hugetlbfs file maps in huge pages only, so it is read instead.
    pub(crate) fn is_sealed(self, fd: BorrowedFd<'_>) -> bool {
        let wanted = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK;
        self == FileSystem::Tmpfs && file::seals(fd) & wanted == wanted
    }
}
