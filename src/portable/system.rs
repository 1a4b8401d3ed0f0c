//! Page sizes and page faults of the platform.

/// `sysconf(_SC_PAGESIZE)`, sysconf(3).
#[cfg(unix)]
pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf(3) reads a constant and touches no memory of ours.
    #[allow(unsafe_code)]
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

/// Pages of WebAssembly are 64 KiB, those of Windows 4 KiB on every processor.
#[cfg(not(unix))]
pub(crate) fn page_size() -> usize {
    if cfg!(target_family = "wasm") {
        64 << 10
    } else {
        4 << 10
    }
}

/// Not known.
pub(crate) fn huge_page_size() -> Option<usize> {
    None
}

pub(crate) mod pages {
    /// They are not counted.
    pub(crate) fn faults() -> (u64, u64) {
        (0, 0)
    }
}
