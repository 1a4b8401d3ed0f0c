//! The inner loop of every first touch.

use std::hint::black_box;

/// Writes a byte to each page, and returns the number of pages.
#[inline(never)]
pub fn touch(bytes: &mut [u8]) -> u64 {
    let mut pages = 0;
    for byte in black_box(bytes).iter_mut().step_by(4096) {
        *byte = 1;
        pages += 1;
    }
    black_box(pages)
}
