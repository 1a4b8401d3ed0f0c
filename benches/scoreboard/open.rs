//! A file as bytes: opened and scanned, or opened only.

use std::cell::LazyCell;
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::bare::Bare;
use crate::files::Files;
use crate::machine::give_back_free_memory;
use crate::measure::{Board, Sample, Unit, Workload};
use crate::scan::scan;
use crate::size;

const ROOM: &str = "open";
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const CHUNK: u64 = 256 * KIB;

/// The order of opening and closing files.
#[derive(Clone, Copy)]
pub struct Pattern<'a> {
    paths: &'a [PathBuf],
    count: usize,
    /// All stay open until the last is scanned, then all are dropped: every byte needs memory of its own.
    /// Else each is dropped before the next is opened: memory that was just freed serves again.
    keep: bool,
}

impl Pattern<'_> {
    pub fn run<B>(&self, open: impl Fn(&Path) -> B, scan: impl Fn(&B) -> u64) -> Sample {
        if self.keep {
            give_back_free_memory();
        }
        Sample::of(self.count, || {
            let mut alive = Vec::with_capacity(if self.keep { self.count } else { 0 });
            let mut sum = 0u64;
            for path in self.paths.iter().cycle().take(self.count) {
                let bytes = open(path);
                sum = sum.wrapping_add(scan(&bytes));
                if self.keep {
                    alive.push(bytes);
                }
            }
            sum
        })
    }
}

/// `more` may add contenders to a workload that scans.
pub fn measure(
    board: &mut Board,
    more: impl for<'a> Fn(Workload<'a>, Pattern<'a>) -> Workload<'a>,
) -> io::Result<()> {
    let small = [1, 4 * KIB, 16 * KIB, 64 * KIB, 128 * KIB, 256 * KIB, MIB];
    for size in small.into_iter().chain([2 * MIB, 16 * MIB, 256 * MIB, GIB]) {
        let count = (GIB / size).clamp(1, 1000);
        // 2 GiB alive are enough to be far from every cache.
        let alive = (2 * GIB / size).min(1000);
        let dropped = format!("scan {}, each dropped", size::name(size));
        let kept = format!("scan {}, {alive} kept", size::name(size));
        let empty = format!("open and drop {}", size::name(size));
        let again = format!("open and drop {}, leased already", size::name(size));
        let files = LazyCell::new(|| Files::create(size, count as usize));
        let paths = || match &*files {
            Ok(files) => Ok(files.paths()),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        for (name, count, keep) in [(dropped, count, false), (kept, alive, true)] {
            if board.wants(ROOM, &name, count * size) {
                let paths = paths()?;
                let count = count as usize;
                let pattern = Pattern { paths, count, keep };
                board.measure(more(scan_files(name, size, pattern), pattern));
            }
        }
        if size == 2 * MIB || size == GIB {
            if board.wants(ROOM, &empty, size) {
                // It takes a lease besides.
                board.measure(open_and_drop(empty, &paths()?[0], 1.0 / 1.45));
            }
            if board.wants(ROOM, &again, size) {
                let path = &paths()?[0];
                let leased = stillmap_open(path);
                if leased.backing() == stillmap::Backing::Leased {
                    board.measure(open_and_drop(again, path, 1.0 / 0.6));
                }
            }
        }
    }
    Ok(())
}

fn scan_files(name: String, size: u64, pattern: Pattern<'_>) -> Workload<'_> {
    let workload = Workload::new(ROOM, name, Unit::Rate(size))
        .stillmap("Snapshot::open", move || {
            pattern.run(stillmap_open, |it| scan(it))
        })
        .peer("std::fs::read", move || {
            pattern.run(std_read, |it| scan(it))
        })
        .peer("memmap2 map", move || pattern.run(map, |it| scan(it)));
    // The kernel's part of reading.
    let workload = if pattern.keep {
        workload.limit("pread into fresh huge pages", move || {
            let Pattern { paths, count, .. } = pattern;
            Sample::of(count, || {
                let mut memory = Bare::map(count * size as usize, true);
                let slots = memory.chunks_exact_mut(size as usize);
                let files = paths.iter().cycle().zip(slots);
                let sums = files.map(|(path, slot)| pread_scan(path, slot));
                sums.fold(0, u64::wrapping_add)
            })
        })
    } else {
        let workload = workload.limit("pread into a warm buffer", pread_each(pattern, size));
        // The faster of the two depends on the size.
        if size <= CHUNK {
            workload
        } else {
            workload.limit("pread in steps of 256 KiB", pread_each(pattern, CHUNK))
        }
    };
    if size <= MIB {
        let (read, map) = match (pattern.keep, size) {
            (false, ..=4096) => (1.08, 1.0),
            (false, ..=262_144) => (1.0, 1.0),
            (true, ..=16_384) => (1.5, 1.0),
            (true, ..=65_536) => (3.0, 1.0),
            (true, _) => (3.0, 0.85),
            (false, _) => (1.0, 0.97),
        };
        workload
            .claim(read, "std::fs::read")
            .claim(map, "memmap2 map")
    } else if size < 64 * MIB {
        workload.claim(0.97, "memmap2 map")
    } else {
        workload
            .claim(10.0, "std::fs::read")
            .claim(0.97, "memmap2 map")
    }
}

/// Reads into the same memory again and again, which is there already.
fn pread_each(pattern: Pattern<'_>, step: u64) -> impl FnMut() -> Sample {
    let mut buffer = vec![1; step as usize];
    move || {
        Sample::of(pattern.count, || {
            let sums = pattern
                .paths
                .iter()
                .map(|path| pread_scan(path, &mut buffer));
            sums.fold(0, u64::wrapping_add)
        })
    }
}

/// The cost of opening without reading.
fn open_and_drop(name: String, path: &Path, claim: f64) -> Workload<'_> {
    /// As often as fits in a millisecond, for a clock that is not the measurement.
    fn run<B>(open: impl Fn() -> B) -> Sample {
        let start = Instant::now();
        let mut times = 0;
        while times == 0 || start.elapsed().as_micros() < 1000 {
            drop(black_box(open()));
            times += 1;
        }
        Sample::new(start.elapsed(), times)
    }
    Workload::new(ROOM, name, Unit::Time)
        .stillmap("Snapshot::open", || run(|| stillmap_open(path)))
        .peer("memmap2 map", || run(|| map(path)))
        .limit("open, fstat, mmap, munmap, close", || {
            run(|| bare_map(path))
        })
        .claim(claim, "memmap2 map")
}

fn stillmap_open(path: &Path) -> stillmap::Snapshot {
    stillmap::Snapshot::open(path).expect("Snapshot::open")
}

fn std_read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("read")
}

fn map(path: &Path) -> memmap2::Mmap {
    let file = File::open(path).expect("open");
    // SAFETY: the file belongs to this program, which leaves it alone while it is mapped.
    unsafe { memmap2::Mmap::map(&file) }.expect("map")
}

fn pread_scan(path: &Path, buffer: &mut [u8]) -> u64 {
    let file = File::open(path).expect("open");
    let size = size_of_file(&file);
    let mut at = 0;
    let mut sum = 0u64;
    while at < size {
        let n = file.read_at(buffer, at).expect("pread");
        assert_ne!(n, 0, "the file shrank");
        sum = sum.wrapping_add(scan(&buffer[..n]));
        at += n as u64;
    }
    sum
}

fn bare_map(path: &Path) {
    let file = File::open(path).expect("open");
    let size = size_of_file(&file) as usize;
    let fd = file.as_raw_fd();
    // SAFETY: a mapping at an address of the kernel's choice, which is not used.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    // SAFETY: the mapping made above.
    unsafe { libc::munmap(start, size) };
}

/// `fstat`, which is cheaper than the `statx` of `File::metadata`.
fn size_of_file(file: &File) -> u64 {
    // SAFETY: all zeros are a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: an open descriptor, and memory for the answer.
    let done = unsafe { libc::fstat(file.as_raw_fd(), &mut stat) };
    assert_eq!(done, 0);
    stat.st_size as u64
}
