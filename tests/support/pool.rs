//! The kernel's pool of reserved huge pages: raised for a test, and put back.

use super::setting::Setting;
use super::{is_root, skip};
use std::fs;
use std::io;

/// A pool with `pages` free pages; restored when dropped.
pub struct HugePagePool(Setting);

impl HugePagePool {
    /// `None`, after saying why, where it cannot be raised.
    pub fn of(free: u64) -> Option<Self> {
        if !is_root() {
            skip("huge pages: vm.nr_hugepages needs root");
            return None;
        }
        let changed = Setting::change("/proc/sys/vm/nr_hugepages", |before| {
            let total: u64 = before.parse().map_err(io::Error::other)?;
            Ok((total - Self::free() + free).to_string())
        });
        let made = changed.and_then(|setting| match Self::free() {
            got if got == free => Ok(HugePagePool(setting)),
            got => Err(io::Error::other(format!("{got} of {free} pages free"))),
        });
        made.map_err(|error| skip(format_args!("no pool of huge pages: {error}")))
            .ok()
    }

    /// Pages that are neither used nor promised to a mapping.
    pub fn free() -> u64 {
        count("HugePages_Free").saturating_sub(count("HugePages_Rsvd"))
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

/// True if this kernel can have a pool (hugetlbfs); prints `skipped:` if not.
pub fn has_huge_pages() -> bool {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let has = meminfo.contains("Hugepagesize:");
    if !has {
        skip("a kernel without hugetlbfs");
    }
    has
}

/// The size of a reserved huge page in bytes.
pub fn huge_page_size() -> usize {
    super::kernel::meminfo("Hugepagesize")
}
