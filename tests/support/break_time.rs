//! fs.lease-break-time, lowered for a test.

use super::skip;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const BREAK_TIME: &str = "/proc/sys/fs/lease-break-time";

/// A shorter time for the kernel to wait, put back when dropped. One test at a time, also of
/// several processes.
pub struct BreakTime {
    before: String,
    /// Puts it back if this process is killed.
    after_all: Child,
    alone: File,
}

impl BreakTime {
    pub fn of(seconds: u32) -> Option<Self> {
        let alone = Path::new(env!("CARGO_TARGET_TMPDIR")).join("break-time.lock");
        let alone = File::create(alone).expect("make a file to lock");
        // SAFETY: takes plain numbers.
        let locked = unsafe { libc::flock(alone.as_raw_fd(), libc::LOCK_EX) };
        assert_eq!(locked, 0, "{}", std::io::Error::last_os_error());
        let before = fs::read_to_string(BREAK_TIME).ok()?;
        if let Err(error) = fs::write(BREAK_TIME, seconds.to_string()) {
            skip(format_args!("setting fs.lease-break-time: {error}"));
            return None;
        }
        let put_back = format!(
            "trap '' INT TERM HUP; cat; echo {} >{BREAK_TIME}",
            before.trim()
        );
        let after_all = Command::new("sh")
            .args(["-c", &put_back])
            .stdin(Stdio::piped())
            .spawn()
            .expect("start a shell");
        Some(BreakTime {
            before,
            after_all,
            alone,
        })
    }
}

impl Drop for BreakTime {
    fn drop(&mut self) {
        let _ = self.after_all.kill();
        let _ = self.after_all.wait();
        let _ = fs::write(BREAK_TIME, self.before.trim());
        // SAFETY: takes plain numbers. Said, since a forked process has the descriptor, too.
        unsafe { libc::flock(self.alone.as_raw_fd(), libc::LOCK_UN) };
    }
}
