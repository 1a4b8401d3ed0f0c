//! Test bytes that are never the same at two places, and comparisons that report where two inputs differ.

use std::io::Read;

/// `len` bytes that depend on `seed` and on their position; a prefix of any longer pattern of the same seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut word = 0u64;
    while bytes.len() < len {
        // splitmix64: a counter, scrambled.
        let mut mixed = seed.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        word += 1;
    }
    bytes.truncate(len);
    bytes
}

/// The oracle for everything that can be read: what `cat` would print, through a small buffer of odd size.
pub fn cat(mut input: impl Read) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut piece = [0u8; 1021];
    loop {
        match input.read(&mut piece) {
            Ok(0) => return Ok(all),
            Ok(n) => all.extend_from_slice(&piece[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Like `assert_eq!`, without printing megabytes.
#[track_caller]
pub fn assert_same(got: &[u8], want: &[u8], what: impl std::fmt::Display) {
    if got == want {
        return;
    }
    match got.iter().zip(want).position(|(a, b)| a != b) {
        Some(at) => panic!(
            "{what}: byte {at} is {:#04x}, not {:#04x} (lengths {} and {})",
            got[at],
            want[at],
            got.len(),
            want.len()
        ),
        None => panic!("{what}: {} bytes, not {}", got.len(), want.len()),
    }
}
