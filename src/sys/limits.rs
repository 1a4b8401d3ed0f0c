//! Limits of this process and machine, as the kernel states them: memory, descriptors, mappings, addresses, file sizes.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

/// Bytes of memory that can be used without swapping or being killed: `MemAvailable` of proc_meminfo(5), or what the
/// control groups of the process have left if that is less.
pub(crate) fn available_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let machine = field(&meminfo, "MemAvailable:").map(|kib| kib << 10);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    group_dirs(&groups)
        .iter()
        .filter_map(|dir| group_headroom(dir))
        .fold(machine.unwrap_or_else(free_memory), u64::min)
}

/// Free memory and buffers in bytes, sysinfo(2): less than what is available, where /proc is not mounted.
fn free_memory() -> u64 {
    let mut info = MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: sysinfo(2) writes one `struct sysinfo` to the pointer, which has room for it.
    if unsafe { libc::sysinfo(info.as_mut_ptr()) } != 0 {
        return 0;
    }
    // SAFETY: sysinfo(2) succeeded, so it is filled in.
    let info = unsafe { info.assume_init() };
    #[allow(clippy::unnecessary_cast)] // the types differ between architectures
    let units = info.freeram as u64 + info.bufferram as u64;
    units.saturating_mul(info.mem_unit.into())
}

/// How long a file may become by this process, in bytes: `RLIMIT_FSIZE` of getrlimit(2).
pub(crate) fn file_size() -> u64 {
    // SAFETY: getrlimit(2) writes one `struct rlimit64`.
    soft_limit(|limit| unsafe { libc::getrlimit64(libc::RLIMIT_FSIZE, limit) })
}

/// How many descriptors the process may have: `RLIMIT_NOFILE` of getrlimit(2).
pub(crate) fn descriptors() -> u64 {
    // SAFETY: getrlimit(2) writes one `struct rlimit64`.
    soft_limit(|limit| unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, limit) })
}

/// How many bytes of addresses the process may map: `RLIMIT_AS` of getrlimit(2); `u64::MAX` if there is no limit.
pub(crate) fn address_space() -> u64 {
    // SAFETY: getrlimit(2) writes one `struct rlimit64`.
    soft_limit(|limit| unsafe { libc::getrlimit64(libc::RLIMIT_AS, limit) })
}

/// The soft limit that getrlimit(2) returns, which fails for no valid resource.
fn soft_limit(get: impl FnOnce(&mut libc::rlimit64) -> i32) -> u64 {
    let mut limit = libc::rlimit64 {
        rlim_cur: libc::RLIM64_INFINITY,
        rlim_max: libc::RLIM64_INFINITY,
    };
    get(&mut limit);
    limit.rlim_cur
}

/// Bytes of addresses that the process has mapped, proc_pid_statm(5).
pub(crate) fn used_address_space() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').next()?.parse().ok()?;
    Some(pages * super::page_size() as u64)
}

/// How many mappings a process may have: `vm.max_map_count`, which is 65530 where it cannot be read.
pub(crate) fn most_mappings() -> usize {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(65_530)
}

/// How many mappings the process has, proc_pid_maps(5).
pub(crate) fn mappings() -> Option<usize> {
    let maps = fs::read("/proc/self/maps").ok()?;
    Some(maps.iter().filter(|&&byte| byte == b'\n').count())
}

/// The size of a page in the pool of reserved huge pages, in bytes: `Hugepagesize` of proc_meminfo(5).
pub(crate) fn reserved_page_size() -> io::Result<usize> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let bytes = field(&meminfo, "Hugepagesize:").map(|kib| kib << 10);
    let size = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    size.filter(|size| size.is_power_of_two())
        .ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// The number after `name`, which begins a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The directories of the memory controller for the lines of `/proc/self/cgroup` (cgroups(7)), innermost first.
fn group_dirs(groups: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
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
        dirs.extend(inner.ancestors().map(|group| root.join(group)));
    }
    dirs
}

/// Bytes that a control group may still use, with the pages of files that it can drop.
fn group_headroom(dir: &Path) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(dir.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let droppable = ["inactive_file ", "active_file "].map(|name| field(&stat, name).unwrap_or(0));
    let used = used.saturating_sub(droppable.iter().sum());
    Some(limit.saturating_sub(used))
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
        let dirs = group_dirs("3:cpu,memory:/a/b\n0::/c\n1:name=x:/\n");
        let dirs: Vec<_> = dirs.iter().filter_map(|f| f.to_str()).collect();
        assert_eq!(dirs[0], "/sys/fs/cgroup/memory/a/b");
        assert!(dirs.contains(&"/sys/fs/cgroup/c"));
        assert_eq!(dirs.len(), 5);
    }

    #[test]
    fn a_field_is_the_number_behind_its_name() {
        let text = "MemTotal: 10 kB\nMemAvailable:    7 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(7));
        assert_eq!(field(text, "Nothing:"), None);
    }
}
