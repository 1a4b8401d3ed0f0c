//! Temporary directories: removed with their value, or by the next run if this one is killed.

use super::disk::unmount;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

/// The directory inside, where a file system may be mounted.
pub const MOUNT: &str = "mount";

/// A new directory below the system's temporary directory; every user may search it.
pub fn temp_dir() -> TempDir {
    temp_dir_in(&std::env::temp_dir())
}

pub fn temp_dir_in(parent: &Path) -> TempDir {
    remove_leftovers(parent);
    let dir = tempfile::Builder::new()
        .prefix(&format!("{}{}-", prefix(), std::process::id()))
        .tempdir_in(parent)
        .expect("make a temporary directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))
        .expect("open the temporary directory to all");
    dir
}

/// Before the number of the process: numbers mean something in one namespace only.
fn prefix() -> String {
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digits = |c: &char| c.is_ascii_digit();
    let number: String = namespace.to_string_lossy().chars().filter(digits).collect();
    format!("stillmap-test-{number}-")
}

/// Removes what processes that have ended left there.
pub fn remove_leftovers(parent: &Path) {
    let prefix = prefix();
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(&prefix)?.split('-').next());
        if owner.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            unmount(&entry.path().join(MOUNT));
            // What its children mounted there.
            remove_leftovers(&entry.path());
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
