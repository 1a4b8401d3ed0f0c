//! fs.lease-break-time, lowered for a test.

use super::setting::Setting;
use super::skip;

/// A shorter time for the kernel to wait; as it was before, when dropped.
pub struct BreakTime(Setting);

impl BreakTime {
    /// `None`, after saying why, where it cannot be changed.
    pub fn of(seconds: u32) -> Option<Self> {
        Setting::change("/proc/sys/fs/lease-break-time", |_| Ok(seconds.to_string()))
            .map_err(|error| skip(format_args!("setting fs.lease-break-time: {error}")))
            .ok()
            .map(BreakTime)
    }
}
