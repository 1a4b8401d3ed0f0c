//! A value that is set once, by the first thread that has made one.
//!
//! Unlike with `OnceLock`, no thread waits for another: a child that is forked while another thread makes the value does
//! not have that thread, and makes its own.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Null at first, then a value that stays. Reading it is one atomic load, so it is async-signal-safe.
pub(crate) struct OnceBox<T> {
    value: AtomicPtr<T>,
    /// It owns the value, and gives `&T`.
    owns: PhantomData<Box<T>>,
}

// SAFETY: sending it sends a `T`, as that of `Box<T>` does.
unsafe impl<T: Send> Send for OnceBox<T> {}
// SAFETY: `&OnceBox` gives `&T` to any thread, and takes a `T` from any.
unsafe impl<T: Send + Sync> Sync for OnceBox<T> {}

impl<T> OnceBox<T> {
    pub(crate) const fn new() -> Self {
        OnceBox {
            value: AtomicPtr::new(ptr::null_mut()),
            owns: PhantomData,
        }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        // SAFETY: null, or made by `set`, and neither changed nor freed before `self` is dropped. Acquire: it is seen whole.
        unsafe { self.value.load(Ordering::Acquire).as_ref() }
    }

    /// Sets the value. False if there is one already; then `value` is dropped.
    pub(crate) fn set(&self, value: T) -> bool {
        let new = Box::into_raw(Box::new(value));
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let stored = self
            .value
            .compare_exchange(ptr::null_mut(), new, order.0, order.1);
        if stored.is_err() {
            // SAFETY: made above, and not stored.
            drop(unsafe { Box::from_raw(new) });
        }
        stored.is_ok()
    }

    /// Two threads may both make a value; the first that has one stores it.
    pub(crate) fn get_or_init(&self, make: impl Fn() -> T) -> &T {
        loop {
            if let Some(value) = self.get() {
                return value;
            }
            self.set(make());
        }
    }
}

impl<T> Drop for OnceBox<T> {
    fn drop(&mut self) {
        let value = *self.value.get_mut();
        if !value.is_null() {
            // SAFETY: made by `set`, and `&mut self` proves that no reference to it is left.
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_first_value_stays() {
        let counted = Arc::new(());
        let once = OnceBox::new();
        assert!(once.get().is_none());
        assert!(once.set(Arc::clone(&counted)));
        assert!(!once.set(Arc::new(())));
        assert!(Arc::ptr_eq(once.get().unwrap(), &counted));
        assert!(Arc::ptr_eq(once.get_or_init(|| unreachable!()), &counted));
        drop(once);
        assert_eq!(Arc::strong_count(&counted), 1);
    }

    #[test]
    fn threads_agree_on_one_value() {
        let once = OnceBox::new();
        let value = |number| {
            let once = &once;
            move || *once.get_or_init(|| number)
        };
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(value(1));
            let second = scope.spawn(value(2));
            (first.join().unwrap(), second.join().unwrap())
        });
        assert_eq!(first, second);
    }

    /// What another thread is about to make is not waited for: in a forked child it would be for ever.
    #[test]
    fn a_value_that_another_thread_is_making_is_not_waited_for() {
        let once = OnceBox::new();
        let made = once.get_or_init(|| {
            std::thread::scope(|scope| scope.spawn(|| *once.get_or_init(|| 1)).join().unwrap());
            2
        });
        assert_eq!(*made, 1);
    }
}
