//! Memory that other threads and processes change: bulk copies, and replacing it by zeros.

use std::io;
use std::ptr::NonNull;
#[cfg(target_has_atomic = "64")]
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};

/// Puts private zeroed memory with this protection, mmap(2), in the place of a mapping, in one step. Async-signal-safe.
/// Memory that is not writable is not charged to the process (`vm.overcommit_memory` 2), and takes no pages where all are
/// locked (`MCL_FUTURE`).
///
/// # Safety
/// - The range is mapped and owned by the caller.
/// - Every reference into it expects any byte to change at any time: it is made of atomics.
pub(crate) unsafe fn replace_by_zeros(
    start: NonNull<u8>,
    len: usize,
    protection: i32,
) -> io::Result<()> {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the caller owns the range, see above.
    let at = unsafe { libc::mmap(start.as_ptr().cast(), len, protection, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Copies out of memory that others may be writing to.
///
/// # Safety
/// - `from..from+len` is mapped; all who use it while this runs do so through `AtomicU8`, or from other processes.
/// - `to..to+len` is writable, exclusively ours, and apart from the other range.
#[inline]
pub(crate) unsafe fn copy_out(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: passed on.
    unsafe { machine::copy_out(from, to, len) }
}

/// Copies a value out of memory that others may be writing to: an aligned one of 1, 2, 4 or 8 bytes in one piece,
/// where the processor has atomics of that size.
///
/// # Safety
/// As for [`copy_out`]. The range may be read-only.
#[inline]
pub(crate) unsafe fn load_out(from: *const u8, to: *mut u8, len: usize) {
    macro_rules! load {
        ($atomic:ty, $integer:ty) => {{
            // SAFETY: mapped and aligned. std allows relaxed loads of this size from read-only memory.
            let value = unsafe { &*from.cast::<$atomic>() }.load(Ordering::Relaxed);
            // SAFETY: `to` has room for `len` bytes.
            unsafe { to.cast::<$integer>().write_unaligned(value) }
        }};
    }
    match len {
        1 => load!(AtomicU8, u8),
        2 if from.addr() % 2 == 0 => load!(AtomicU16, u16),
        4 if from.addr() % 4 == 0 => load!(AtomicU32, u32),
        #[cfg(target_has_atomic = "64")]
        8 if from.addr() % 8 == 0 => load!(AtomicU64, u64),
        // SAFETY: passed on.
        _ => unsafe { copy_out(from, to, len) },
    }
}

/// Copies into memory that others may be reading and writing.
///
/// # Safety
/// - `to..to+len` is mapped; all who use it while this runs do so through `AtomicU8`, or from other processes.
/// - `from..from+len` is initialised, not written to meanwhile, and apart from the other range.
#[inline]
pub(crate) unsafe fn copy_in(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: passed on.
    unsafe { machine::copy_in(from, to, len) }
}

/// The C library's memcpy, called from assembly.
///
/// A plain copy of bytes that another thread writes is a data race, undefined in Rust and in C. An assembly block is
/// not: it has to behave as *some* Rust code could, and this one behaves as a loop of relaxed `AtomicU8` loads and
/// stores in an order of its own choice. The processor's moves, of whatever width and however often repeated, give for
/// each byte a value that was there at some time; memcpy moves values and never looks at them. The compiler sees only
/// an assembly block that reads and writes memory: it can neither turn it into a plain copy nor move atomics over it.
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, stillmap_portable_copy))
))]
mod machine {
    use std::arch::asm;

    pub(super) use {copy as copy_in, copy as copy_out};

    /// # Safety
    /// Both ranges are mapped and apart from each other; only atomic accesses race with this one.
    #[inline]
    pub(super) unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
        type Memcpy = unsafe extern "C" fn(
            *mut libc::c_void,
            *const libc::c_void,
            usize,
        ) -> *mut libc::c_void;
        let memcpy: Memcpy = libc::memcpy;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: memcpy(3) by the System V calling convention; the stack is aligned for a call, as `nostack` is not
        // given; all registers that a call may change are given up.
        unsafe {
            asm!(
                "call {memcpy}",
                memcpy = in(reg) memcpy,
                inout("rdi") to => _,
                inout("rsi") from => _,
                inout("rdx") len => _,
                clobber_abi("C"),
            );
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: memcpy(3) by the AArch64 calling convention; as above.
        unsafe {
            asm!(
                "blr {memcpy}",
                memcpy = in(reg) memcpy,
                inout("x0") to => _,
                inout("x1") from => _,
                inout("x2") len => _,
                clobber_abi("C"),
            );
        }
    }
}

/// Byte by byte through relaxed atomics. Words would be faster, but atomic accesses of different widths that race
/// are undefined in Rust, and others use `AtomicU8`.
#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    not(any(miri, stillmap_portable_copy))
)))]
mod machine {
    use std::sync::atomic::{AtomicU8, Ordering};

    pub(super) unsafe fn copy_out(from: *const u8, to: *mut u8, len: usize) {
        for i in 0..len {
            // SAFETY: in the range that the caller promised.
            let from = unsafe { from.add(i) };
            // SAFETY: mapped and used by atomics only.
            let from = unsafe { AtomicU8::from_ptr(from.cast_mut()) };
            // SAFETY: in the range that the caller promised.
            let to = unsafe { to.add(i) };
            // SAFETY: writable and ours.
            unsafe { to.write(from.load(Ordering::Relaxed)) };
        }
    }

    pub(super) unsafe fn copy_in(from: *const u8, to: *mut u8, len: usize) {
        for i in 0..len {
            // SAFETY: in the range that the caller promised.
            let to = unsafe { to.add(i) };
            // SAFETY: mapped and used by atomics only.
            let to = unsafe { AtomicU8::from_ptr(to) };
            // SAFETY: in the range that the caller promised.
            let from = unsafe { from.add(i) };
            // SAFETY: initialised, and no code writes to it.
            to.store(unsafe { from.read() }, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

    fn zeros(len: usize) -> Vec<AtomicU8> {
        (0..len).map(|_| AtomicU8::new(0)).collect()
    }

    #[test]
    fn copies_are_equal_at_every_length_and_offset() {
        let memory = zeros(300);
        let few = if cfg!(miri) { 10 } else { 70 };
        for len in (0..few).chain([63, 255, 256, 257]) {
            for offset in 0..8 {
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + offset + 1) as u8).collect();
                let at = memory.as_ptr().cast::<u8>().cast_mut().wrapping_add(offset);
                // SAFETY: `offset + len` is at most 300.
                unsafe { copy_in(data.as_ptr(), at, len) };
                let mut back = vec![0; len];
                // SAFETY: as above.
                unsafe { copy_out(at, back.as_mut_ptr(), len) };
                assert_eq!(back, data);
                assert_eq!(memory[offset + len].swap(0, Ordering::Relaxed), 0);
                memory.iter().for_each(|b| b.store(0, Ordering::Relaxed));
            }
        }
    }

    #[test]
    fn copies_may_race() {
        let (memory, ready) = (zeros(100), AtomicBool::new(false));
        let at = || memory.as_ptr().cast::<u8>().cast_mut();
        std::thread::scope(|s| {
            s.spawn(|| {
                // SAFETY: all 100 bytes; the others use atomics, or these functions.
                unsafe { copy_in([1; 100].as_ptr(), at(), 100) };
                ready.store(true, Ordering::Release);
            });
            s.spawn(|| memory[50].store(1, Ordering::Relaxed));
            let mut buf = [9; 100];
            // SAFETY: as above.
            unsafe { copy_out(at(), buf.as_mut_ptr(), 100) };
            assert!(buf.iter().all(|&byte| byte <= 1));
            while !ready.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            // SAFETY: as above.
            unsafe { copy_out(at(), buf.as_mut_ptr(), 100) };
            assert_eq!(buf, [1; 100]);
        });
    }
}
