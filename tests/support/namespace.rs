//! Mounts that only this process and its children see: mount_namespaces(7). Only in a scenario.

use super::{is_root, skip};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Gives this process its own mounts. False, after saying why, where that is not allowed.
pub fn own_mounts() -> bool {
    if !is_root() {
        skip("a mount namespace takes root");
        return false;
    }
    // SAFETY: plain numbers.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        skip(format_args!("unshare: {}", io::Error::last_os_error()));
        return false;
    }
    mount(
        "none",
        Path::new("/"),
        None,
        libc::MS_REC | libc::MS_PRIVATE,
        "",
    );
    true
}

/// Mounts a new tmpfs over a directory.
pub fn hide(dir: impl AsRef<Path>) {
    mount("tmpfs", dir.as_ref(), Some("tmpfs"), 0, "mode=1777");
}

/// Mounts a directory over another.
pub fn bind(from: &Path, over: impl AsRef<Path>) {
    let from = from.to_str().expect("a path of this test");
    mount(from, over.as_ref(), None, libc::MS_BIND, "");
}

pub fn mount(source: &str, dir: &Path, kind: Option<&str>, flags: libc::c_ulong, data: &str) {
    let text = |s: &str| CString::new(s).expect("no NUL");
    let (source, data) = (text(source), text(data));
    let kind = kind.map(text);
    let path = CString::new(dir.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: C strings, or no file system type.
    let done = unsafe {
        libc::mount(
            source.as_ptr(),
            path.as_ptr(),
            kind.as_ref().map_or(std::ptr::null(), |kind| kind.as_ptr()),
            flags,
            data.as_ptr().cast(),
        )
    };
    let error = io::Error::last_os_error();
    assert_eq!(done, 0, "mount on {}: {error}", dir.display());
}
