//! Claims about mmap and malloc, each measured on this machine: `cargo run --release --example mmap_vs_malloc`.
#![allow(clippy::disallowed_methods)] // it calls mmap(2) directly, on a pipe

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use stillmap::{Anonymous, Exclusive, HugePages, Snapshot, fork, page};

type Measured = io::Result<(String, bool)>;
type Measure = fn() -> Measured;

const MIB: usize = 1 << 20;

fn main() -> io::Result<()> {
    let claims: [(&str, Measure); 9] = [
        ("mmap grants address space, not RAM", grants_addresses),
        (
            "a page of memory comes at the first touch, zeroed",
            zeroed_at_touch,
        ),
        (
            "a page of a file comes at the first touch, with its content",
            content_at_touch,
        ),
        (
            "one fault can map a huge page instead of 512 small ones",
            huge_faults,
        ),
        ("munmap frees RAM at once", munmap_gives_back),
        (
            "free may keep RAM: one block keeps a heap of freed ones",
            free_keeps,
        ),
        (
            "mapping a pipe fails; reading it into a mapping works",
            pipe,
        ),
        (
            "a changed mapping writes the changed pages, `write` the file",
            writes_pages,
        ),
        (
            "children see stores to MAP_SHARED memory, and only those",
            progeny,
        ),
    ];
    for (claim, measure) in claims {
        let measured = measure().unwrap_or_else(|error| (format!("not possible: {error}"), false));
        let (measured, held) = measured;
        let held = if held { "yes" } else { "no" };
        writeln!(
            io::stdout(),
            "claimed   {claim}\nmeasured  {measured}\nheld?     {held}\n"
        )?;
    }
    Ok(())
}

/// A number of a file of /proc, in bytes; the kernel counts in KiB.
fn kernel(file: &str, field: &str) -> usize {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.map_or(0, |kib: usize| kib << 10)
}

fn ram() -> usize {
    kernel("/proc/self/smaps_rollup", "Rss:")
}

fn touch(bytes: &mut [u8]) {
    bytes
        .iter_mut()
        .step_by(page::size())
        .for_each(|byte| *byte = 1);
}

/// Page faults of this process so far.
fn faults() -> u64 {
    let count = stillmap::faults::of_thread();
    count.minor + count.major
}

fn grants_addresses() -> Measured {
    let (addresses, before) = (kernel("/proc/self/status", "VmSize:"), ram());
    let memory = Anonymous::new(1 << 30)?;
    let addresses = kernel("/proc/self/status", "VmSize:") - addresses;
    let grown = ram().saturating_sub(before);
    let text = format!(
        "1 GiB: addresses +{} MiB, RAM +{} MiB",
        addresses / MIB,
        grown / MIB
    );
    Ok((
        text,
        // The allocator may have freed some meanwhile.
        addresses > memory.len() / 100 * 99 && grown < memory.len() / 100,
    ))
}

fn zeroed_at_touch() -> Measured {
    let mut memory = Anonymous::options()
        .huge_pages(HugePages::Never)
        .allocate(64 * MIB)?;
    let before = ram();
    let zero = memory[..4 * MIB]
        .iter()
        .step_by(page::size())
        .all(|&byte| byte == 0);
    touch(&mut memory[..4 * MIB]);
    let grown = ram().saturating_sub(before);
    let text = format!(
        "4 of 64 MiB touched: RAM +{} KiB, all zero: {zero}",
        grown >> 10
    );
    Ok((text, zero && (4 * MIB..8 * MIB).contains(&grown)))
}

fn content_at_touch() -> Measured {
    let mut file = tempfile::tempfile()?;
    file.write_all(&vec![7; 64 * MIB])?;
    file.sync_all()?;
    // SAFETY: the file has no name, so no other process can change it.
    let bytes = unsafe { Snapshot::map_unguarded(&file) }?;
    let before = faults();
    let (content, faulted) = (bytes[37 * MIB], faults() - before);
    Ok((
        format!("one byte of 64 MiB read: {content}, {faulted} fault"),
        content == 7 && faulted <= 2,
    ))
}

fn huge_faults() -> Measured {
    let mut count = [0; 2];
    for (count, pages) in count
        .iter_mut()
        .zip([HugePages::Never, HugePages::Transparent])
    {
        let mut memory = Anonymous::options().huge_pages(pages).allocate(64 * MIB)?;
        let before = faults();
        touch(&mut memory);
        *count = faults() - before;
    }
    let [small, huge] = count;
    Ok((
        format!("64 MiB touched: {small} faults with small pages, {huge} with huge ones"),
        huge * 20 < small,
    ))
}

fn munmap_gives_back() -> Measured {
    let before = ram();
    let mut memory = Anonymous::new(256 * MIB)?;
    touch(&mut memory);
    let full = ram().saturating_sub(before);
    let start = Instant::now();
    drop(memory);
    let (took, left) = (start.elapsed(), ram().saturating_sub(before));
    let text = format!(
        "RAM +{} MiB when full, +{} MiB after munmap, in {took:.1?}",
        full / MIB,
        left / MIB
    );
    Ok((text, full >= 256 * MIB && left < MIB))
}

fn free_keeps() -> Measured {
    let mut blocks: Vec<Box<[u8; 1000]>> = Vec::with_capacity(100_000);
    let before = ram();
    blocks.extend((0..100_000).map(|i| Box::new([i as u8; 1000])));
    let full = ram().saturating_sub(before);
    let kept = blocks.pop();
    blocks.clear();
    let left = ram().saturating_sub(before);
    drop(kept);
    let text = format!(
        "100,000 blocks: RAM +{} MiB; all but one freed: +{} MiB",
        full / MIB,
        left / MIB
    );
    Ok((text, left > full / 2))
}

fn pipe() -> Measured {
    let mut sender = Command::new("head");
    let sender = sender
        .args(["-c", "64M", "/dev/zero"])
        .stdout(Stdio::piped());
    let mut sender = sender.spawn()?;
    let reader = sender.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let (protection, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
    // SAFETY: a new mapping, at an address of the kernel's choice.
    let mapped = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            MIB,
            protection,
            flags,
            reader.as_raw_fd(),
            0,
        )
    };
    let refused = mapped == libc::MAP_FAILED;
    let bytes = Snapshot::from_fd(reader)?;
    sender.wait()?;
    let same = bytes.len() == 64 * MIB && bytes.iter().all(|&byte| byte == 0);
    Ok((
        format!(
            "mmap refused: {refused}; read into a mapping: {} bytes",
            bytes.len()
        ),
        refused && same,
    ))
}

fn writes_pages() -> Measured {
    let file = tempfile::NamedTempFile::new()?;
    let content = vec![7; 64 * MIB];
    fs::write(file.path(), &content)?;
    let path = file.into_temp_path();
    File::open(&path)?.sync_all()?;
    let written = || {
        let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: "));
        line.and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let before = written();
    let mut map = Exclusive::open(&path)?;
    (0..10).for_each(|i| map[i * 6 * MIB] = 1);
    map.close()?;
    let by_mapping = written() - before;
    let whole = OpenOptions::new().write(true).open(&path)?;
    whole.write_all_at(&content, 0)?;
    whole.sync_data()?;
    let by_write = written() - before - by_mapping;
    let text = format!(
        "10 bytes of 64 MiB changed: {} KiB by Exclusive, {} KiB by write",
        by_mapping >> 10,
        by_write >> 10
    );
    Ok((text, by_mapping < by_write))
}

fn progeny() -> Measured {
    let counter = stillmap::Shared::<std::sync::atomic::AtomicU8>::new()?;
    let private = Anonymous::new(page::size())?;
    fork::scope(|scope| {
        scope.spawn(|| {
            let mut private = private.to_vec();
            private[0] = 7;
            counter.store(7, std::sync::atomic::Ordering::Relaxed);
        })?;
        Ok::<(), stillmap::Error>(())
    })??;
    let (shared, private) = (
        counter.load(std::sync::atomic::Ordering::Relaxed),
        private[0],
    );
    let text = format!(
        "a child stored 7: its parent reads {shared} from MAP_SHARED, {private} from MAP_PRIVATE"
    );
    Ok((text, shared == 7 && private == 0))
}
