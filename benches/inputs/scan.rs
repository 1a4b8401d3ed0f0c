//! The inner loop of every scan: one sum over all the bytes, the same machine code for each contender.

use std::hint::black_box;

/// Adds the bytes up as 64-bit words.
///
/// `black_box` on both ends, and no inlining, so that the compiler can neither hoist the sum out of a loop
/// over equal inputs nor drop it, and no contender gets a loop of its own.
#[inline(never)]
pub fn scan(bytes: &[u8]) -> u64 {
    let bytes = black_box(bytes);
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    let mut sum = 0u64;
    for word in words {
        sum = sum.wrapping_add(u64::from_ne_bytes(word.try_into().expect("8 bytes")));
    }
    for &byte in rest {
        sum = sum.wrapping_add(u64::from(byte));
    }
    black_box(sum)
}
