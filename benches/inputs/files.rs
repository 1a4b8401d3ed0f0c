//! Files to read: on the file system of the build directory, whole in the page cache, nothing left to write back.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::noise::noise;

/// Some files of one size, removed on drop.
#[derive(Debug)]
pub struct Files {
    paths: Vec<PathBuf>,
    _dir: TempDir,
}

impl Files {
    pub fn create(size: u64, count: usize) -> io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("inputs-")
            .tempdir_in(directory()?)?;
        let paths = (0..count)
            .map(|n| dir.path().join(n.to_string()))
            .collect::<Vec<_>>();
        for (path, number) in paths.iter().zip(0u64..) {
            write_file(path, size, number)?;
        }
        // Written-back pages stay in the page cache; dirty ones would disturb the measurement later.
        // SAFETY: no pointer is involved.
        let synced = unsafe { libc::syncfs(File::open(dir.path())?.as_raw_fd()) };
        if synced != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { paths, _dir: dir })
    }

    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }
}

/// Where this program was built: a disk, where the temporary directory is often memory.
pub fn directory() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_owned())
}

fn write_file(path: &Path, size: u64, number: u64) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let mut block = noise();
    block[..8].copy_from_slice(&number.to_ne_bytes());
    let mut left = size;
    while left > 0 {
        let n = left.min(block.len() as u64);
        file.write_all(&block[..n as usize])?;
        left -= n;
    }
    Ok(())
}
