//! The text of errors: paths and hints.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// An empty path is shown as `""`.
pub(super) fn shown(path: &Path) -> std::path::Display<'_> {
    if path.as_os_str().is_empty() {
        Path::new("\"\"").display()
    } else {
        path.display()
    }
}

/// ` on PATH`, or nothing.
pub(super) struct On<'a>(pub(super) &'a Option<PathBuf>);

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, " on {}", shown(path)),
            None => Ok(()),
        }
    }
}

/// `: PATH`, or nothing.
pub(super) struct Colon<'a>(pub(super) &'a Option<PathBuf>);

impl fmt::Display for Colon<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, ": {}", shown(path)),
            None => Ok(()),
        }
    }
}

/// What the user can do about the error, where that is known.
#[cfg(not(target_os = "linux"))]
pub(super) fn hint(_operation: &str, _source: &io::Error) -> &'static str {
    ""
}

/// What the user can do about the error, where that is known.
#[cfg(target_os = "linux")]
pub(super) fn hint(operation: &str, source: &io::Error) -> &'static str {
    match (operation, source.raw_os_error()) {
        ("mmap" | "mremap", Some(libc::ENOMEM)) => {
            "; see vm.max_map_count, vm.overcommit_memory and ulimit -v"
        }
        ("mmap (huge pages)", Some(libc::ENOMEM)) => "; reserve huge pages with vm.nr_hugepages",
        ("mlock", Some(libc::ENOMEM | libc::EAGAIN | libc::EPERM)) => {
            "; raise RLIMIT_MEMLOCK (ulimit -l)"
        }
        ("replace by rename", _) => "; Replace::InPlace can write over the file",
        (_, Some(libc::EMFILE)) => "; raise RLIMIT_NOFILE (ulimit -n)",
        (_, Some(libc::EFBIG)) => "; see RLIMIT_FSIZE (ulimit -f)",
        ("read" | "pread", Some(libc::EBADF)) => "; the descriptor is not open for reading",
        _ => "",
    }
}
