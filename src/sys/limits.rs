//! How much there is to take: memory, descriptors.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

/// Bytes of memory that can be taken without swapping or being killed: `MemAvailable` of proc_meminfo(5),
/// or what the process's control group has left if that is less; `u64::MAX` where nothing can be read.
pub(crate) fn available_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = field(&meminfo, "MemAvailable:").map_or(u64::MAX, |kib| kib << 10);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group_folders(&groups)
        .iter()
        .filter_map(|folder| left_in(folder))
        .fold(machine, u64::min)
}

/// How long a file may become by this process, in bytes: `RLIMIT_FSIZE` of getrlimit(2).
pub(crate) fn file_size() -> u64 {
    // SAFETY: getrlimit(2) writes one `struct rlimit`.
    soft(|limit| unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, limit) })
}

/// What getrlimit(2), which fails for no valid resource, says.
fn soft(get: impl FnOnce(&mut libc::rlimit) -> i32) -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    get(&mut limit);
    limit.rlim_cur
}

/// The size of a page in the pool of reserved huge pages, in bytes: `Hugepagesize` of proc_meminfo(5).
pub(crate) fn reserved_page_size() -> io::Result<usize> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let bytes = field(&meminfo, "Hugepagesize:").map(|kib| kib << 10);
    let size = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    size.filter(|size| size.is_power_of_two())
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// Nobody has so few descriptors that one below this number is among the last.
const MANY: i32 = 64;

/// True if a descriptor is in the last quarter of those that the process may have (`RLIMIT_NOFILE`): the kernel gives
/// the lowest number that is free.
pub(crate) fn are_descriptors_short(fd: BorrowedFd<'_>) -> bool {
    let number = fd.as_raw_fd();
    if number < MANY {
        return false;
    }
    // SAFETY: getrlimit(2) writes one `struct rlimit`.
    let most = soft(|limit| unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, limit) });
    u64::from(number.unsigned_abs()) >= most / 4 * 3
}

/// The number behind `name` on a line of its own.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The folders of the memory controller for the lines of `/proc/self/cgroup` (cgroups(7)), innermost first.
fn group_folders(groups: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let root = match controllers {
            "" => Path::new("/sys/fs/cgroup"),
            c if c.split(',').any(|c| c == "memory") => Path::new("/sys/fs/cgroup/memory"),
            _ => continue,
        };
        let inner = Path::new(path.trim_start_matches('/'));
        folders.extend(inner.ancestors().map(|group| root.join(group)));
    }
    folders
}

/// What a control group may still take, counting the file pages that it can give back.
fn left_in(folder: &Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let idle = field(&stat, "inactive_file ").unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(idle)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_available() {
        assert!(available_memory() > 1 << 20);
    }

    #[test]
    fn both_kinds_of_control_groups_are_found() {
        let folders = group_folders("3:cpu,memory:/a/b\n0::/c\n1:name=x:/\n");
        let folders: Vec<_> = folders.iter().filter_map(|f| f.to_str()).collect();
        assert_eq!(folders[0], "/sys/fs/cgroup/memory/a/b");
        assert!(folders.contains(&"/sys/fs/cgroup/c"));
        assert_eq!(folders.len(), 5);
    }

    #[test]
    fn a_field_is_the_number_behind_its_name() {
        let text = "MemTotal: 10 kB\nMemAvailable:    7 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(7));
        assert_eq!(field(text, "Nothing:"), None);
    }
}
