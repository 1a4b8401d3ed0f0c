//! `Draft`: the old file or the new one, complete, in every case.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod attacked;
mod attributes;
mod failed;
mod failing_device;
mod forked;
mod full;
mod hostile;
mod in_place;
mod injected;
mod kept;
mod killed;
mod meanwhile;
mod model;
mod new_files;
mod others;
mod owners;
mod paths;
mod refused;
mod rights;
mod streams;
mod systems;

use std::path::Path;

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("list a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A draft that holds `bytes`, whichever way they are stored: in memory, in the file, or as a sparse file.
fn draft_of(
    options: stillmap::DraftOptions,
    path: &Path,
    bytes: &[u8],
) -> stillmap::Result<stillmap::Draft> {
    let mut draft = options.create(path, bytes.len())?;
    draft.copy_from_slice(bytes);
    Ok(draft)
}

/// True where a file needs no name (`O_TMPFILE`), so that a draft leaves none behind; prints `skipped:` elsewhere.
fn has_unnamed(dir: &Path) -> bool {
    let path = support::c_path(dir);
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    // The system call that the crate makes and tests refuse: open(3) of musl is another.
    // SAFETY: the path is a C string.
    let fd = unsafe { libc::openat(libc::AT_FDCWD, path.as_ptr(), flags, 0o600) };
    if fd < 0 {
        let error = std::io::Error::last_os_error();
        support::skip(format_args!("no unnamed files: {error}"));
        return false;
    }
    // SAFETY: a new descriptor, which no other code knows.
    unsafe { libc::close(fd) };
    true
}

/// Every way in which a draft may keep its bytes in that directory.
fn stores(dir: &Path) -> Vec<stillmap::DraftOptions> {
    let options = stillmap::Draft::options;
    let in_memory = [options(), options().sparse(true)];
    let in_file = can_map(dir).then(|| options().memory_limit(0));
    in_memory.into_iter().chain(in_file).collect()
}

/// True where drafts over their memory limit are mapped files; prints `skipped:` elsewhere.
fn can_map(dir: &Path) -> bool {
    let can = [
        libc::EXT4_SUPER_MAGIC as u64,
        libc::XFS_SUPER_MAGIC as u64,
        libc::TMPFS_MAGIC as u64,
    ]
    .contains(&support::kernel::file_system(
        std::fs::File::open(dir).unwrap(),
    )) && has_unnamed(dir);
    if !can {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| support::skip("drafts are in memory only here"));
    }
    can
}
