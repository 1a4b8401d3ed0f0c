//! The kernel's pool of reserved huge pages: raised for a test, and put back.

use super::{is_root, skip};
use std::fs;
use std::io;
use std::sync::{Mutex, MutexGuard};

const PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// The pool is the machine's: one test at a time.
static POOL: Mutex<()> = Mutex::new(());

/// A pool with so many free pages; as it was before, when dropped.
pub struct HugePagePool {
    before: u64,
    _only: MutexGuard<'static, ()>,
}

impl HugePagePool {
    /// `None`, after saying why, where it cannot be had.
    pub fn of(free: u64) -> Option<Self> {
        if !is_root() {
            skip("huge pages: vm.nr_hugepages needs root");
            return None;
        }
        let only = POOL.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let made = Self::total().and_then(|before| {
            let pool = HugePagePool {
                before,
                _only: only,
            };
            let used = before - Self::free();
            fs::write(PAGES, (used + free).to_string())?;
            match Self::free() {
                got if got == free => Ok(pool),
                got => Err(io::Error::other(format!("{got} of {free} pages free"))),
            }
        });
        made.map_err(|error| skip(format_args!("no pool of huge pages: {error}")))
            .ok()
    }

    fn total() -> io::Result<u64> {
        let text = fs::read_to_string(PAGES)?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Pages that are neither used nor promised to a mapping.
    pub fn free() -> u64 {
        count("HugePages_Free").saturating_sub(count("HugePages_Rsvd"))
    }
}

impl Drop for HugePagePool {
    fn drop(&mut self) {
        let _ = fs::write(PAGES, self.before.to_string());
    }
}

fn count(field: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .strip_prefix(':')?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0)
}

/// The size of a reserved huge page in bytes.
pub fn huge_page_size() -> usize {
    super::kernel::meminfo("Hugepagesize")
}
