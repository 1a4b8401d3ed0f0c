//! Spare mappings for the SIGBUS handler. A process that has all the mappings it may have (vm.max_map_count) cannot make
//! another one, not even in place of one that it has.
#![allow(unsafe_code)]

use crate::page;
use crate::sys::memory::{self, Address, PageKind};
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

/// Number of spare mappings. More than one, since other threads may use some of them once they were unmapped.
const MAPPINGS: usize = 16;

/// Their start, or null. Adjacent pages have different protection, so each is a mapping.
static SPARE: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());

/// Makes them, unless they are there. Allocates nothing, so it may run in a signal handler.
pub(super) fn reserve() -> io::Result<()> {
    if !SPARE.load(Ordering::Acquire).is_null() {
        return Ok(());
    }
    let page = page::size();
    let start = memory::map_anonymous(MAPPINGS * page, Address::Anywhere, PageKind::None)?;
    for number in (1..MAPPINGS).step_by(2) {
        // SAFETY: inside the mapping.
        let at = unsafe { start.add(number * page) };
        // SAFETY: mapped just now, and nothing is stored there.
        let protected = unsafe { memory::protect_read_only(at, page) };
        protected.inspect_err(|_| unmap(start))?;
    }
    let order = (Ordering::AcqRel, Ordering::Relaxed);
    let stored = SPARE.compare_exchange(ptr::null_mut(), start.as_ptr(), order.0, order.1);
    if stored.is_err() {
        unmap(start);
    }
    Ok(())
}

/// Unmaps them while `map` runs. False if there are none.
pub(super) fn without(map: impl FnOnce() -> bool) -> bool {
    let Some(start) = NonNull::new(SPARE.swap(ptr::null_mut(), Ordering::AcqRel)) else {
        return false;
    };
    unmap(start);
    let mapped = map();
    // Otherwise the next `Shared` makes them.
    let _ = reserve();
    mapped
}

fn unmap(start: NonNull<u8>) {
    // SAFETY: made by `reserve`, and no other thread has it. No reference leads there.
    let _ = unsafe { memory::unmap(start, MAPPINGS * page::size()) };
}
