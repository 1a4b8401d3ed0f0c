//! `Deref` and what belongs to it, for every type that is a slice of bytes.

use std::ptr::NonNull;

/// A value that owns bytes at a fixed address.
///
/// # Safety
/// As long as the value is borrowed, `len` bytes from `start` on are initialised and readable, and only a `&mut` borrow
/// of the value changes them. Moving the value does not move the bytes.
#[allow(unsafe_code)]
pub(crate) unsafe trait ByteSlice {
    /// Address and length of the bytes.
    fn start_and_len(&self) -> (NonNull<u8>, usize);
}

/// `Deref<Target = [u8]>`, `AsRef`, `Borrow` and `Debug` for a [`ByteSlice`]. `Debug` prints the length, not the bytes,
/// and what the named methods return.
macro_rules! impl_byte_slice {
    ($type:ident, debug: $($method:ident),*) => {
        impl std::ops::Deref for $type {
            type Target = [u8];

            #[inline]
            fn deref(&self) -> &[u8] {
                let (start, len) = $crate::bytes::ByteSlice::start_and_len(self);
                // SAFETY: `ByteSlice` promises `len` initialised bytes that do not change while `self` is borrowed.
                #[allow(unsafe_code)]
                unsafe {
                    std::slice::from_raw_parts(start.as_ptr(), len)
                }
            }
        }

        impl AsRef<[u8]> for $type {
            #[inline]
            fn as_ref(&self) -> &[u8] {
                self
            }
        }

        impl std::borrow::Borrow<[u8]> for $type {
            #[inline]
            fn borrow(&self) -> &[u8] {
                self
            }
        }

        /// Prints the length, not the bytes.
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("len", &self.len())
                    $(.field(stringify!($method), &self.$method()))*
                    .finish()
            }
        }

        // SAFETY: `ByteSlice` promises that the bytes stay where they are when the value is moved.
        #[cfg(feature = "stable_deref_trait")]
        #[allow(unsafe_code)]
        unsafe impl stable_deref_trait::StableDeref for $type {}
    };
}

/// `DerefMut`, `AsMut` and `BorrowMut` for a [`ByteSlice`] whose bytes are writable memory that only this value reaches.
macro_rules! impl_byte_slice_mut {
    ($type:ident) => {
        impl std::ops::DerefMut for $type {
            #[inline]
            fn deref_mut(&mut self) -> &mut [u8] {
                let (start, len) = $crate::bytes::ByteSlice::start_and_len(self);
                // SAFETY: as in `deref`; the bytes are writable, and `&mut self` makes the borrow exclusive.
                #[allow(unsafe_code)]
                unsafe {
                    std::slice::from_raw_parts_mut(start.as_ptr(), len)
                }
            }
        }

        impl AsMut<[u8]> for $type {
            #[inline]
            fn as_mut(&mut self) -> &mut [u8] {
                self
            }
        }

        impl std::borrow::BorrowMut<[u8]> for $type {
            #[inline]
            fn borrow_mut(&mut self) -> &mut [u8] {
                self
            }
        }
    };
}

pub(crate) use {impl_byte_slice, impl_byte_slice_mut};
