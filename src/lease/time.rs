//! Times that threads and fork handlers share without a lock.

#[cfg(not(target_has_atomic = "64"))]
pub(super) use self::coarse::AtomicMs;
#[cfg(target_has_atomic = "64")]
pub(super) use crate::sync::atomic::AtomicU64 as AtomicMs;

/// For processors without 64-bit atomics. Times are rounded down, so a deadline comes too early and never too late.
#[cfg(any(not(target_has_atomic = "64"), test))]
mod coarse {
    use std::sync::atomic::{AtomicU32, Ordering};

    /// 2^32 steps are 8.7 years, counted from the start of the machine.
    const MS: u64 = 64;

    /// A moment or a period in ms. 0 stays 0, and no other value becomes 0.
    pub(in super::super) struct AtomicMs(AtomicU32);

    impl AtomicMs {
        pub(in super::super) const fn new(steps: u32) -> Self {
            AtomicMs(AtomicU32::new(steps))
        }

        pub(in super::super) fn load(&self, order: Ordering) -> u64 {
            u64::from(self.0.load(order)) * MS
        }

        pub(in super::super) fn store(&self, ms: u64, order: Ordering) {
            let steps = (ms / MS).max(u64::from(ms != 0));
            let steps = u32::try_from(steps).unwrap_or(u32::MAX);
            self.0.store(steps, order);
        }
    }

    #[test]
    fn a_time_is_never_late() {
        let shared = AtomicMs::new(0);
        let stored = |ms| {
            shared.store(ms, Ordering::Relaxed);
            shared.load(Ordering::Relaxed)
        };
        for ms in [64, 1_000, 45_000, u32::MAX.into(), 3_000 * 86_400_000] {
            assert!((ms - 63..=ms).contains(&stored(ms)), "{ms}");
        }
        let max = u64::from(u32::MAX) * MS;
        assert_eq!([0, 1, u64::MAX].map(stored), [0, 64, max]);
    }
}
