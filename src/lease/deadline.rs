//! The deadline of a lease that was broken.

/// Times in milliseconds of the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(super) broken_at: u64,
    pub(super) break_time: u64,
}

/// The last tenth of the break time, or this many milliseconds if that is more: if the lease is not released by then, the
/// process is aborted.
const MARGIN_MIN: u64 = 200;

/// Bytes that are copied in a millisecond from a slow disk: 200 MB/s.
const COPIED_PER_MS: u64 = 200_000;

impl Deadline {
    /// True from the last tenth of the break time on, while the lease still holds.
    pub(crate) fn is_near(&self, now: u64) -> bool {
        let margin = (self.break_time / 10).max(MARGIN_MIN);
        self.elapsed(now) + margin >= self.break_time && !self.is_over(now)
    }

    /// True once the kernel has ended the lease.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        self.elapsed(now) >= self.break_time
    }

    /// True once a quarter of the break time has passed: then a file that can be cloned is cloned. Copying is tried first,
    /// because a clone, though it takes no time, blocks while the file system is frozen (fsfreeze(8)).
    pub(super) fn has_waited(&self, now: u64) -> bool {
        self.elapsed(now) >= self.break_time / 4
    }

    /// True once three quarters of the break time have passed, less the time that it takes to copy that many bytes.
    pub(crate) fn has_waited_long(&self, now: u64, bytes: usize) -> bool {
        let copy = bytes as u64 / COPIED_PER_MS;
        self.elapsed(now) + copy >= self.break_time / 4 * 3
    }

    fn elapsed(&self, now: u64) -> u64 {
        now.saturating_sub(self.broken_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_of_a_break() {
        let deadline = Deadline {
            broken_at: 5_000,
            break_time: 45_000,
        };
        let phase = |ms: u64| {
            let now = 5_000 + ms;
            let waited = deadline.has_waited_long(now, 0);
            (waited, deadline.is_near(now), deadline.is_over(now))
        };
        assert_eq!(phase(0), (false, false, false));
        assert_eq!(phase(33_750), (true, false, false));
        assert_eq!(phase(40_500), (true, true, false));
        assert_eq!(phase(45_000), (true, false, true));
        let waited = |ms: u64, bytes| deadline.has_waited_long(5_000 + ms, bytes);
        assert!(waited(28_750, 1_000_000_000) && !waited(28_749, 1_000_000_000));
        if let Ok(bytes) = usize::try_from(100_000_000_000_u64) {
            assert!(waited(0, bytes));
        }
    }
}
