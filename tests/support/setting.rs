//! A setting of the whole machine, changed for a test, and put back even if the test is killed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Restores the value when dropped. One test at a time has it, also of several processes.
pub struct Setting {
    file: &'static str,
    before: String,
    /// Puts it back if this process is killed.
    after_all: Child,
    alone: File,
}

impl Setting {
    /// Writes what `value` makes of the value that is there to a file below /proc/sys.
    pub fn change(
        file: &'static str,
        value: impl FnOnce(&str) -> io::Result<String>,
    ) -> io::Result<Self> {
        let alone = OpenOptions::new().write(true).open(file)?;
        // SAFETY: takes plain numbers.
        if unsafe { libc::flock(alone.as_raw_fd(), libc::LOCK_EX) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let before = fs::read_to_string(file)?.trim().to_string();
        // To know first whether it can be put back.
        fs::write(file, &before)?;
        // It writes by the descriptor that is locked, so no other process has the file until it has: the next one would take our
        // value for the original.
        let put_back = format!("trap '' INT TERM HUP; read line; echo {before}");
        let after_all = Command::new("sh")
            .args(["-c", &put_back])
            .stdin(Stdio::piped())
            .stdout(alone.try_clone()?)
            // timeout(1) and terminals kill the whole group.
            .process_group(0)
            .spawn()?;
        let setting = Setting {
            file,
            after_all,
            alone,
            before,
        };
        fs::write(file, value(&setting.before)?)?;
        Ok(setting)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.file, &self.before);
        let _ = self.after_all.kill();
        let _ = self.after_all.wait();
        // SAFETY: takes plain numbers. Explicit, since a forked process also has the descriptor.
        unsafe { libc::flock(self.alone.as_raw_fd(), libc::LOCK_UN) };
    }
}
