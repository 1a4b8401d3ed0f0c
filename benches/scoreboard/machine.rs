//! The machine under the numbers: what it is, how busy it is, how much memory a piece of work takes.

use std::fs;
use std::path::Path;

/// One line: kernel, processors, memory, file system of `directory`, transparent huge pages.
pub fn describe(directory: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| -> String {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or("?", |(_, value)| value.trim())
            .to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = field(&read("/proc/cpuinfo"), "model name");
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let gib = memory
        .trim_end_matches(" kB")
        .parse::<f64>()
        .unwrap_or_default()
        / f64::from(1 << 20);
    let kernel = read("/proc/sys/kernel/osrelease");
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let huge = huge
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map_or("?", |(word, _)| word);
    format!(
        "Linux {}, {cpus} x {cpu}, {gib:.0} GiB, files on {}, transparent huge pages: {huge}",
        kernel.trim(),
        file_system(directory).unwrap_or_else(|| "?".to_owned()),
    )
}

/// Processor time since boot, in clock ticks: of all, and of this program with its finished children.
#[derive(Clone, Copy, Debug)]
pub struct Ticks {
    all: u64,
    busy: u64,
    own: u64,
}

impl Ticks {
    pub fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in these.
        let fields = line
            .split_whitespace()
            .take(8)
            .map(|field| field.parse().ok());
        let fields = fields.collect::<Option<Vec<u64>>>()?;
        let all = fields.iter().sum();
        let busy = all - fields.get(3)? - fields.get(4)?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let (_, after) = stat.rsplit_once(')')?;
        // utime, stime, cutime, cstime: fields 14 to 17, counted from 1; the name in brackets is the second.
        let own = after.split_whitespace().skip(11).take(4);
        let own = own
            .map(|field| field.parse::<u64>().ok())
            .sum::<Option<u64>>()?;
        Some(Self { all, busy, own })
    }

    /// How much of one processor others had since then, the host of a virtual machine among them.
    pub fn others_since(self, then: Self) -> f64 {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let others = (self.busy - then.busy).saturating_sub(self.own - then.own) as f64;
        let all = self.all - then.all;
        if all == 0 {
            0.0
        } else {
            others / all as f64 * cpus
        }
    }
}

/// The type of the file system mounted nearest above `path`.
pub fn file_system(path: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        Some((
            Path::new(mount.split(' ').nth(4)?),
            source.split(' ').next()?,
        ))
    });
    let above = mounts.filter(|(point, _)| path.starts_with(point));
    above
        .max_by_key(|(point, _)| point.as_os_str().len())
        .map(|(_, kind)| kind.to_owned())
}

/// How far the kernel reads ahead on the device of `directory`, in bytes.
#[allow(dead_code, reason = "not in every scoreboard")]
pub fn readahead(directory: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let kib = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).ok()?;
    Some(kib.trim().parse::<u64>().ok()? << 10)
}

/// Runs `work` and says by how much the process grew at most, mapped page cache included.
pub fn peak_rss_of<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    give_back_free_memory();
    // proc_pid_clear_refs(5): 5 resets the peak resident set size.
    let reset = fs::write("/proc/self/clear_refs", "5").is_ok();
    let before = status("VmRSS:");
    let value = work();
    let peak = status("VmHWM:");
    let grown = before
        .zip(peak)
        .map(|(before, peak)| peak.saturating_sub(before));
    (value, grown.filter(|_| reset))
}

/// Makes the allocator and stillmap return what they keep, so that the next allocation is fresh memory.
pub fn give_back_free_memory() {
    stillmap::release_unused_memory();
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Touches `bytes` of memory and frees them, so that the next allocation gets memory that the host has provided.
///
/// A virtual machine may report free memory to its host, which takes it away; touching it again then costs a fault
/// in the host for each page, ten times and more of what is to be measured, and the contender that pays it is random.
pub fn touch_free_memory(bytes: usize) {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return;
    }
    // In huge pages, which is fast; freed, they serve as small ones, too.
    // SAFETY: the mapping made above; this advice leaves the bytes alone.
    unsafe { libc::madvise(start, bytes, libc::MADV_HUGEPAGE) };
    for offset in (0..bytes).step_by(4 << 10) {
        // SAFETY: inside the mapping made above.
        unsafe { start.cast::<u8>().add(offset).write_volatile(1) };
    }
    // SAFETY: the mapping made above, which nothing points to.
    unsafe { libc::munmap(start, bytes) };
}

fn status(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kib| kib << 10)
}
