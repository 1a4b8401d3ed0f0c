//! Where leases are tried: the file systems that can be had here.

use super::disk::LoopFs;
use std::path::{Path, PathBuf};

/// Opens until the snapshot is leased. A file that was just written is for a moment still open for writing in whatever
/// process another test is starting, which has our descriptors until it executes its program.
pub fn leased(open: impl Fn() -> folio::Result<folio::Snapshot>) -> folio::Snapshot {
    loop {
        match open() {
            Ok(snapshot) if snapshot.backing() == folio::Backing::Leased => return snapshot,
            Ok(_) | Err(folio::Error::NotMappable { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A file system to try something on, and the folder to do it in.
pub struct Disk {
    pub name: &'static str,
    _mounted: Option<LoopFs>,
    path: PathBuf,
}

impl Disk {
    /// Those that leases can be had on: the one of the build, and each of the others that can be mounted here.
    pub fn all() -> Vec<Disk> {
        let mut disks = vec![Disk::of_the_build()];
        for name in ["ext4", "xfs", "btrfs"] {
            disks.extend(Disk::mounted(name));
        }
        disks
    }

    pub fn of_the_build() -> Disk {
        Disk {
            name: "the build's",
            _mounted: None,
            path: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        }
    }

    pub fn mounted(name: &'static str) -> Option<Disk> {
        Disk::mounted_with_size(name, 512 << 20)
    }

    pub fn mounted_with_size(name: &'static str, size: u64) -> Option<Disk> {
        let mounted = LoopFs::new(name, size)?;
        Some(Disk {
            name,
            path: mounted.path().to_path_buf(),
            _mounted: Some(mounted),
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if files can be cloned there.
    pub fn has_clones(&self) -> bool {
        matches!(self.name, "xfs" | "btrfs")
    }
}
