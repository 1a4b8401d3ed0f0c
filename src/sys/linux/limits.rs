//! Limits of this process and machine, as the kernel reports them: memory, descriptors, mappings, addresses, file sizes.

use std::fs;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::path::Path;

/// Bytes of memory that can be used without swapping or being killed: `MemAvailable` of proc_meminfo(5), or what the
/// control groups of the process have left if that is less. Allocates nothing.
pub(crate) fn available_memory() -> u64 {
    let mut buffer = [0; TEXT_MAX];
    let meminfo = read_text(Path::new("/proc/meminfo"), &mut buffer);
    let machine = meminfo.and_then(|text| field(text, "MemAvailable:"));
    let machine = machine.map(|kib| kib << 10);
    let mut available = machine.unwrap_or_else(free_memory);
    if let Some(groups) = read_text(Path::new("/proc/self/cgroup"), &mut buffer) {
        for_each_group(groups, |dir| {
            let headroom = group_headroom(dir).unwrap_or(u64::MAX);
            available = available.min(headroom);
        });
    }
    available
}

/// Maximum bytes read of a file of /proc or of a control group.
const TEXT_MAX: usize = 8 << 10;

/// The longest path that `std` passes to the kernel without an allocation, in bytes, with its NUL.
const PATH_MAX: usize = 384;

/// The text of a small file. Allocates nothing.
fn read_text<'b>(path: &Path, buffer: &'b mut [u8]) -> Option<&'b str> {
    let mut file = fs::File::open(path).ok()?;
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]).ok()? {
            0 => break,
            n => len += n,
        }
    }
    std::str::from_utf8(&buffer[..len]).ok()
}

/// Calls `f` with a path that is made of parts; nothing if it is too long. Allocates nothing.
fn with_path<R>(parts: [&str; 3], f: impl FnOnce(&Path) -> Option<R>) -> Option<R> {
    let mut bytes = [0; PATH_MAX - 1];
    let mut len = 0;
    for part in parts {
        bytes
            .get_mut(len..len + part.len())?
            .copy_from_slice(part.as_bytes());
        len += part.len();
    }
    f(Path::new(std::str::from_utf8(&bytes[..len]).ok()?))
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

/// Maximum length of a file that this process may write, in bytes: `RLIMIT_FSIZE` of getrlimit(2).
pub(crate) fn file_size() -> u64 {
    // SAFETY: getrlimit(2) writes one `struct rlimit64`.
    soft_limit(|limit| unsafe { libc::getrlimit64(libc::RLIMIT_FSIZE, limit) })
}

/// Maximum number of descriptors of the process: `RLIMIT_NOFILE` of getrlimit(2).
pub(crate) fn descriptors() -> u64 {
    // SAFETY: getrlimit(2) writes one `struct rlimit64`.
    soft_limit(|limit| unsafe { libc::getrlimit64(libc::RLIMIT_NOFILE, limit) })
}

/// Maximum bytes of addresses that the process may map: `RLIMIT_AS` of getrlimit(2); `u64::MAX` if there is no limit.
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

/// Maximum number of mappings of a process: `vm.max_map_count`, which is 65530 where it cannot be read.
pub(crate) fn most_mappings() -> usize {
    let text = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(65_530)
}

/// The number of mappings of the process, proc_pid_maps(5).
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

/// Calls `f` with each directory of the memory controller for the lines of `/proc/self/cgroup` (cgroups(7)), innermost
/// first.
fn for_each_group(groups: &str, mut f: impl FnMut(&Path)) {
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let root = match controllers {
            "" => "/sys/fs/cgroup",
            c if c.split(',').any(|c| c == "memory") => "/sys/fs/cgroup/memory",
            _ => continue,
        };
        let mut group = path.trim_end_matches('/');
        loop {
            with_path([root, group, ""], |dir| {
                f(dir);
                Some(())
            });
            match group.rfind('/') {
                Some(slash) => group = &group[..slash],
                None => break,
            }
        }
    }
}

/// Bytes that a control group may still use, with the pages of files that it can drop.
fn group_headroom(dir: &Path) -> Option<u64> {
    let dir = dir.to_str()?;
    let mut buffer = [0; TEXT_MAX];
    let mut number = |name: &str| -> Option<u64> {
        with_path([dir, "/", name], |path| {
            read_text(path, &mut buffer)?.trim().parse().ok()
        })
    };
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = with_path([dir, "/", "memory.stat"], |path| {
        let text = read_text(path, &mut buffer)?;
        let names = ["inactive_file ", "active_file "];
        Some(names.iter().filter_map(|name| field(text, name)).sum())
    });
    Some(limit.saturating_sub(used.saturating_sub(stat.unwrap_or(0))))
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
        let mut dirs = Vec::new();
        for_each_group("3:cpu,memory:/a/b\n0::/c\n1:name=x:/\n0::/\n", |dir| {
            dirs.push(dir.display().to_string());
        });
        let root = "/sys/fs/cgroup";
        let expected = ["/memory/a/b", "/memory/a", "/memory", "/c", "", ""];
        assert_eq!(dirs, expected.map(|dir| format!("{root}{dir}")));
    }

    #[test]
    fn a_field_is_the_number_behind_its_name() {
        let text = "MemTotal: 10 kB\nMemAvailable:    7 kB\n";
        assert_eq!(field(text, "MemAvailable:"), Some(7));
        assert_eq!(field(text, "Nothing:"), None);
    }
}
