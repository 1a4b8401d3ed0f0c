//! Types for memory that other processes write to.

use std::sync::atomic::{
    AtomicI8, AtomicI16, AtomicI32, AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicUsize,
};
#[cfg(target_has_atomic = "64")]
use std::sync::atomic::{AtomicI64, AtomicU64};

/// Types for memory that other threads and processes change at any moment.
///
/// Implemented for the integer atomics, arrays and slices of them, and structs made by
/// [`shareable!`](crate::shareable!).
///
/// # Safety
/// The type promises that
/// - every bit pattern is a valid value (so no `bool`, no `AtomicBool`, no enum, no reference);
/// - every byte of it, padding aside, is changed through `&self` by atomic operations only;
/// - it holds no pointers and nothing else that means something in one process only;
/// - dropping it does nothing, as a value in shared memory is never dropped.
///
/// # Examples
/// ```
/// fn shareable<T: stillmap::Shareable + ?Sized>() {}
/// shareable::<std::sync::atomic::AtomicU64>();
/// shareable::<[[std::sync::atomic::AtomicU8; 16]]>();
/// ```
/// A type with invalid bit patterns is refused:
/// ```compile_fail,E0277
/// fn shareable<T: stillmap::Shareable + ?Sized>() {}
/// shareable::<std::sync::atomic::AtomicBool>();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be placed in shared memory",
    label = "made of integer atomics only: `AtomicU8` to `AtomicU64`, `AtomicI8` to `AtomicI64`, arrays of them",
    note = "structs of such fields are made by `stillmap::shareable!`"
)]
#[allow(unsafe_code)]
pub unsafe trait Shareable: Sync + 'static {}

macro_rules! atomics {
    ($($atomic:ty),*) => {$(
        // SAFETY: an integer of which every bit pattern is valid, changed by atomic operations only, without Drop.
        #[allow(unsafe_code)]
        unsafe impl Shareable for $atomic {}
    )*};
}

atomics!(
    AtomicU8,
    AtomicU16,
    AtomicU32,
    AtomicUsize,
    AtomicI8,
    AtomicI16,
    AtomicI32,
    AtomicIsize
);
#[cfg(target_has_atomic = "64")]
atomics!(AtomicU64, AtomicI64);

// SAFETY: an array has what its elements have, and nothing between them.
#[allow(unsafe_code)]
unsafe impl<A: Shareable, const N: usize> Shareable for [A; N] {}

// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<A: Shareable> Shareable for [A] {}

/// What [`shareable!`](crate::shareable!) checks when it is compiled.
pub mod checks {
    use super::Shareable;

    /// The size of the field to which the function leads.
    pub const fn size_of_field<S, T: Shareable>(_: fn(&S) -> &T) -> usize {
        size_of::<T>()
    }

    /// Fails unless fields of that many bytes are all that `S` has.
    pub const fn check<S>(fields: usize) {
        assert!(
            fields == size_of::<S>(),
            "shareable! takes no padding: put fields of [AtomicU8; N] where it would be"
        );
        assert!(
            !core::mem::needs_drop::<S>(),
            "shareable! takes no Drop: a value in shared memory is never dropped"
        );
    }
}

/// Declares structs for [`Shared`](crate::Shared) memory.
///
/// Every field must be [`Shareable`](trait@crate::Shareable); the compiler checks it. The struct gets `repr(C)`, so
/// that programs compiled apart agree on where its fields are; documentation, derives and other attributes are passed
/// through. It has no generic parameters and no padding: bytes between the fields must be fields. A crate that
/// forbids `unsafe_code` can use it.
///
/// # Examples
/// ```
/// use stillmap::Shared;
/// use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
///
/// stillmap::shareable! {
///     /// What the workers count.
///     #[derive(Debug, Default)]
///     pub struct Stats {
///         /// Answered from the cache.
///         pub hits: AtomicU64,
///         pub misses: AtomicU64,
///         pub by_kind: [AtomicU32; 4],
///     }
/// }
///
/// let stats = Shared::<Stats>::new()?;
/// stats.hits.fetch_add(1, Ordering::Relaxed);
/// stats.by_kind[3].store(7, Ordering::Relaxed);
/// assert_eq!(stats.hits.load(Ordering::Relaxed), 1);
/// # Ok::<(), stillmap::Error>(())
/// ```
///
/// A field on a cache line of its own:
/// ```
/// # use std::sync::atomic::{AtomicU8, AtomicU64};
/// stillmap::shareable! {
///     #[repr(align(64))]
///     struct Line { count: AtomicU64, rest: [AtomicU8; 56] }
///     struct Counters { first: Line, second: Line }
/// }
/// # fn main() -> stillmap::Result<()> {
/// # assert_eq!(size_of::<Counters>(), 128);
/// # let _: (AtomicU64, AtomicU8);
/// # let counters = stillmap::Shared::<Counters>::new()?;
/// # counters.second.count.store(1, std::sync::atomic::Ordering::Relaxed);
/// # counters.first.rest[0].store(1, std::sync::atomic::Ordering::Relaxed);
/// # Ok(())
/// # }
/// ```
///
/// ## What is refused
/// A `bool`, which has only two valid bit patterns; use an `AtomicU8`:
/// ```compile_fail,E0277
/// stillmap::shareable! { pub struct Flags { pub ready: bool } }
/// ```
/// ```
/// stillmap::shareable! { pub struct Flags { pub ready: std::sync::atomic::AtomicU8 } }
/// ```
/// A pointer, which means nothing in another process; use an offset:
/// ```compile_fail,E0277
/// stillmap::shareable! { pub struct Node { pub next: std::sync::atomic::AtomicPtr<u8> } }
/// ```
/// ```
/// stillmap::shareable! { pub struct Node { pub next: std::sync::atomic::AtomicU64 } }
/// ```
/// A plain integer, which cannot be changed atomically:
/// ```compile_fail,E0277
/// stillmap::shareable! { pub struct Count { pub n: u64 } }
/// ```
/// A field with a destructor, which would never run:
/// ```compile_fail,E0277
/// stillmap::shareable! { pub struct Log { pub lines: Vec<u8> } }
/// ```
/// ```
/// stillmap::shareable! { pub struct Log { pub lines: [std::sync::atomic::AtomicU8; 4096] } }
/// ```
/// A destructor of the struct itself:
/// ```compile_fail,E0080
/// stillmap::shareable! { pub struct Count { pub n: std::sync::atomic::AtomicU64 } }
/// impl Drop for Count { fn drop(&mut self) {} }
/// ```
/// ```
/// stillmap::shareable! { pub struct Count { pub n: std::sync::atomic::AtomicU64 } }
/// impl Count { pub fn reset(&self) { self.n.store(0, std::sync::atomic::Ordering::Relaxed) } }
/// # stillmap::Shared::<Count>::new()?.reset();
/// # Ok::<(), stillmap::Error>(())
/// ```
/// Padding, whose bytes have no defined value:
/// ```compile_fail,E0080
/// # use std::sync::atomic::{AtomicU8, AtomicU64};
/// stillmap::shareable! { pub struct Padded { pub kind: AtomicU8, pub n: AtomicU64 } }
/// ```
/// also where the program has a `core` of its own:
/// ```compile_fail,E0080
/// extern crate self as core;
/// pub mod mem {
///     pub const fn size_of<T>() -> usize { 16 }
/// }
/// # use std::sync::atomic::{AtomicU8, AtomicU64};
/// stillmap::shareable! { pub struct Padded { pub kind: AtomicU8, pub n: AtomicU64 } }
/// # fn main() {}
/// ```
/// ```
/// # use std::sync::atomic::{AtomicU8, AtomicU64};
/// stillmap::shareable! { pub struct Padded { pub kind: AtomicU8, pub spare: [AtomicU8; 7], pub n: AtomicU64 } }
/// ```
/// `repr(packed)`, under which atomics would not be aligned:
/// ```compile_fail,E0793
/// # use std::sync::atomic::{AtomicU8, AtomicU64};
/// stillmap::shareable! { #[repr(packed)] pub struct Packed { pub kind: AtomicU8, pub n: AtomicU64 } }
/// ```
/// Generic parameters:
/// ```compile_fail
/// stillmap::shareable! { pub struct Pair<A> { pub first: A, pub second: A } }
/// ```
#[macro_export]
macro_rules! shareable {
    () => {};
    (
        $(#[$attribute:meta])*
        $visibility:vis struct $name:ident {
            $($(#[$on_field:meta])* $field_visibility:vis $field:ident : $type:ty),* $(,)?
        }
        $($rest:tt)*
    ) => {
        $(#[$attribute])*
        #[repr(C)]
        $visibility struct $name {
            $($(#[$on_field])* $field_visibility $field : $type),*
        }

        const _: () = {
            // Of the field as it is, whatever an attribute made of it. By `$crate` alone: any other name may be the program's
            // own, `core` included.
            let _fields = 0 $(+ $crate::_shareable::size_of_field::<$name, _>(|value| &value.$field))*;
            $crate::_shareable::check::<$name>(_fields);
            // No field is left out.
            fn _all_fields(value: &$name) {
                let $name { $($field: _),* } = value;
            }
        };

        // SAFETY: every field is `Shareable`, there is nothing else in the struct, and it has no Drop: checked above.
        unsafe impl $crate::Shareable for $name {}

        $crate::shareable! { $($rest)* }
    };
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident < $($rest:tt)*) => {
        ::core::compile_error!(
            "shareable! takes no generic parameters: all who share the memory have to agree on one type"
        );
    };
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident $($rest:tt)*) => {
        ::core::compile_error!("shareable! takes structs with named fields");
    };
    ($(#[$attribute:meta])* $visibility:vis enum $($rest:tt)*) => {
        ::core::compile_error!("shareable! takes structs only: not every bit pattern is a variant of an enum");
    };
    ($(#[$attribute:meta])* $visibility:vis union $($rest:tt)*) => {
        ::core::compile_error!("shareable! takes structs only");
    };
}
