//! Places to test leases: the file systems that can be mounted here.

use super::disk::LoopFs;
use super::kernel::file_system;
use super::{skip, temp_dir_in};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Only against a hang: no test depends on how long anything takes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Opens until the snapshot is leased. A file that was just written is for a moment still open for writing in whatever
/// process another test is starting, which has our descriptors until it executes its program.
#[track_caller]
pub fn leased(open: impl Fn() -> stillmap::Result<stillmap::Snapshot>) -> stillmap::Snapshot {
    let start = Instant::now();
    loop {
        match open() {
            Ok(snapshot) if snapshot.backing() == stillmap::Backing::Leased => return snapshot,
            Ok(_) | Err(stillmap::Error::NotMappable { .. }) => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
        assert!(start.elapsed() < TIMEOUT, "no lease in {TIMEOUT:?}");
    }
}

/// Why no lease is granted on files in `folder`, tested by a system call of our own.
pub fn refusal(folder: &Path) -> Option<String> {
    const TRUSTED: [u64; 4] = [
        libc::EXT4_SUPER_MAGIC as u64,
        libc::XFS_SUPER_MAGIC as u64,
        libc::BTRFS_SUPER_MAGIC as u64,
        libc::F2FS_SUPER_MAGIC as u64,
    ];
    let probe = || {
        let inside = temp_dir_in(folder);
        let path = inside.path().join("probe");
        std::fs::write(&path, "")?;
        let file = File::open(&path)?;
        if !TRUSTED.contains(&file_system(&file)) {
            return Err(io::Error::other("not on this file system"));
        }
        let start = Instant::now();
        // SAFETY: takes plain numbers; the lease goes with the descriptor.
        while unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } != 0 {
            let error = io::Error::last_os_error();
            // As above, for a moment.
            if error.kind() != io::ErrorKind::WouldBlock || start.elapsed() > TIMEOUT {
                return Err(error);
            }
            std::thread::yield_now();
        }
        Ok(())
    };
    probe().err().map(|error| error.to_string())
}

/// True if files can be cloned in `folder`, tested by a system call of our own.
pub fn has_clones(folder: &Path) -> bool {
    let inside = temp_dir_in(folder);
    let from = super::file_with(inside.path(), "from", &[1; 5000]);
    let from = File::open(from).expect("open it");
    let to = File::create(inside.path().join("to")).expect("make another");
    // SAFETY: takes descriptors only.
    unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) == 0 }
}

/// An empty directory where leases are granted.
pub struct Folder {
    folder: tempfile::TempDir,
    _disk: Disk,
}

impl Folder {
    /// On the disk of the build, or on one that can be mounted here; `None`, after saying why.
    pub fn new() -> Option<Folder> {
        let build = Disk::of_the_build();
        let disk = match refusal(build.path()) {
            None => build,
            Some(_) => Disk::mounted("ext4").filter(Disk::has_leases)?,
        };
        let folder = temp_dir_in(disk.path());
        Some(Folder {
            folder,
            _disk: disk,
        })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// A file system to test on, and a directory there.
pub struct Disk {
    pub name: &'static str,
    _mounted: Option<LoopFs>,
    path: PathBuf,
}

impl Disk {
    /// The file systems that grant leases: the one of the build, and each of the others that can be mounted here.
    pub fn all() -> Vec<Disk> {
        let mounted = ["ext4", "xfs", "btrfs"].map(Disk::mounted);
        let all = std::iter::once(Some(Disk::of_the_build())).chain(mounted);
        all.flatten().filter(Disk::has_leases).collect()
    }

    /// False, after saying why, where no lease is granted.
    pub fn has_leases(&self) -> bool {
        let refusal = refusal(&self.path);
        if let Some(why) = &refusal {
            skip(format_args!("no lease on {}: {why}", self.name));
        }
        refusal.is_none()
    }

    pub fn of_the_build() -> Disk {
        Disk {
            name: "the build's disk",
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
        has_clones(&self.path)
    }
}
