//! Clocks, clock_gettime(2). No call fails for these clocks, and none allocates.

use std::mem::MaybeUninit;

fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = MaybeUninit::zeroed();
    // SAFETY: clock_gettime(2) writes one timespec.
    unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) };
    // SAFETY: zeroed is a valid timespec, and the call filled it.
    unsafe { time.assume_init() }
}

/// Milliseconds since some moment before the start of the process; never 0.
pub(crate) fn monotonic_ms() -> u64 {
    let time = read(libc::CLOCK_MONOTONIC);
    let ms = time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000;
    ms.max(1)
}

/// The clock of the timestamps of files, which moves in steps of up to 10 ms: nanoseconds since 1970.
#[allow(clippy::unnecessary_cast, reason = "32 bits wide on 32-bit machines")]
pub(crate) fn timestamp_ns() -> i64 {
    let time = read(libc::CLOCK_REALTIME_COARSE);
    (time.tv_sec as i64)
        .saturating_mul(1_000_000_000)
        .saturating_add(time.tv_nsec as i64)
}
