//! The bytes of an input: memory, or a view of a file that is locked.

use super::memory::Buffer;
use super::pages::{Kind, Pages};
use super::platform::View;
use crate::backing::Backing;
use crate::bytes::{ByteSlice, impl_byte_slice};
use std::ptr::NonNull;

/// What a view is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    /// To store into it; the file stays as it is.
    Copy,
}

pub(super) enum Bytes {
    Memory(Buffer),
    Locked(View),
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
