//! The bytes of an input: memory, or a view of a file that is locked.

use super::locked::LockedView;
use super::memory::Buffer;
use super::pages::{Kind, Pages};
use crate::backing::Backing;
use crate::bytes::{ByteSlice, impl_byte_slice};
use std::ptr::NonNull;

pub(super) enum Bytes {
    Memory(Buffer),
    Locked(LockedView),
}

impl Bytes {
    pub(super) fn backing(&self) -> Backing {
        match self {
            Bytes::Memory(_) => Backing::Memory,
            Bytes::Locked(_) => Backing::Locked,
        }
    }

    pub(super) fn pages(&self) -> Pages<'_> {
        match self {
            Bytes::Memory(memory) => memory.pages(),
            Bytes::Locked(_) => Pages::new(self, Kind::Own),
        }
    }
}

// SAFETY: the bytes of one or the other, which promise the same.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Bytes {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        match self {
            Bytes::Memory(memory) => memory.start_and_len(),
            Bytes::Locked(view) => view.start_and_len(),
        }
    }
}

impl_byte_slice!(Bytes, debug: backing);
