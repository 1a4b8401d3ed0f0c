//! What the kernel counts for this process.

use std::fs;
use std::time::Duration;

/// RAM of this process in bytes, exact where /proc/self/status lags behind.
pub fn resident() -> u64 {
    kibibytes("/proc/self/smaps_rollup", "Rss:")
        .or_else(|| kibibytes("/proc/self/status", "VmRSS:"))
        .unwrap_or(0)
}

/// Address space of this process in bytes.
pub fn address_space() -> u64 {
    kibibytes("/proc/self/status", "VmSize:").unwrap_or(0)
}

/// RAM that can be had, in bytes.
pub fn available() -> u64 {
    kibibytes("/proc/meminfo", "MemAvailable:").unwrap_or(1 << 30)
}

/// Bytes that this process has caused to be written to devices, proc_pid_io(5).
pub fn written() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

fn kibibytes(file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(number << 10)
}

/// One line: kernel, processors, memory, page sizes.
pub fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let memory = kibibytes("/proc/meminfo", "MemTotal:").unwrap_or(0);
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let huge = huge.split(['[', ']']).nth(1).unwrap_or("none");
    format!(
        "Linux {}, {processors} processors, {} of RAM, pages of {}, transparent huge pages of {}: {huge}",
        read("/proc/sys/kernel/osrelease").trim(),
        size(memory),
        size(stillmap::page::size() as u64),
        stillmap::page::huge_size().map_or("no size".to_owned(), |bytes| size(bytes as u64)),
    )
}

/// `1.5 GiB`
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..4).find(|unit| bytes < 1000 << (10 * unit)).unwrap_or(4);
    let number = bytes as f64 / (1_u64 << (10 * unit)) as f64;
    match number.fract() {
        0.0 => format!("{number} {}", UNITS[unit]),
        _ => format!("{number:.1} {}", UNITS[unit]),
    }
}

/// `12 µs`
pub fn time(time: Duration) -> String {
    let nanos = time.as_nanos() as f64;
    match nanos {
        nanos if nanos < 1e3 => format!("{nanos:.0} ns"),
        nanos if nanos < 1e6 => format!("{:.1} µs", nanos / 1e3),
        nanos if nanos < 1e9 => format!("{:.1} ms", nanos / 1e6),
        nanos => format!("{:.1} s", nanos / 1e9),
    }
}
