//! Memory straight from the kernel, for the limits.

use std::ops::{Deref, DerefMut};

/// Zeroed memory from `mmap` and nothing else.
pub struct Bare {
    start: *mut libc::c_void,
    len: usize,
}

impl Bare {
    pub fn map(len: usize, huge: bool) -> Self {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        if huge {
            // SAFETY: the mapping made above; this advice leaves the bytes alone.
            let advised = unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
            assert_eq!(advised, 0, "MADV_HUGEPAGE");
        }
        Self { start, len }
    }
}

impl Deref for Bare {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped and zeroed from `map` to `drop`, ours alone.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl DerefMut for Bare {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only way in.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
