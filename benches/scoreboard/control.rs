//! Page control: residency, faulting pages in, and reading a cold file ahead.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use stillmap::{Anonymous, HugePages, Pages, Snapshot};

use crate::bare::Bare;
use crate::files::{self, Files};
use crate::machine;
use crate::measure::{Board, Sample, Unit, Workload};
use crate::scan::scan;
use crate::size;

const ROOM: &str = "control";
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const BARE: &str = "bare mincore loop";
const PLAIN: &str = "memmap2 map";
const ALONE: &str = "Snapshot::open alone";

/// How many times the bytes of a file are added up, in the processor's cache, between opening it and scanning it: that
/// takes about as long as a fast disk does for them.
const WORK: u64 = 20;

pub fn measure(board: &mut Board) -> io::Result<()> {
    for size in [MIB, GIB] {
        let in_cache = format!("residency of a file of {}", size::name(size));
        if board.wants(ROOM, &in_cache, size) {
            let files = Files::create(size, 1)?;
            let file = File::open(&files.paths()[0])?;
            // SAFETY: no other code has the file.
            let snapshot = unsafe { Snapshot::map_unguarded(&file) }?;
            board.measure(residency(in_cache, size, snapshot.pages(), &snapshot));
        }
        let granted = format!("residency of {}, small pages", size::name(size));
        if board.wants(ROOM, &granted, size) {
            let options = Anonymous::options().huge_pages(HugePages::Never);
            let memory = options.populate(true).allocate(size as usize)?;
            board.measure(residency(granted, size, memory.pages(), &memory));
        }
    }
    for size in [MIB, 256 * MIB] {
        let name = format!("populate {}, small pages", size::name(size));
        if board.wants(ROOM, &name, size) {
            board.measure(populate(name, size as usize));
        }
    }
    let ahead = machine::readahead(&files::directory()?);
    let ahead = ahead.map_or_else(|| "unknown".to_owned(), size::name);
    for (size, work) in [(MIB, 0), (256 * MIB, 0), (256 * MIB, WORK)] {
        let first = if work > 0 { "work, then " } else { "" };
        let name = format!("{first}scan a cold {}, readahead {ahead}", size::name(size));
        if board.wants(ROOM, &name, size) {
            let files = Files::create(size, 1)?;
            let workload = cold_scan(name, size, &files.paths()[0], work);
            board.measure(match work {
                0 => workload,
                // The disk reads meanwhile.
                _ => workload.claim(1.3, ALONE),
            });
        }
    }
    Ok(())
}

/// The check is the number of pages found.
fn residency<'a>(name: String, size: u64, pages: Pages<'a>, bytes: &'a [u8]) -> Workload<'a> {
    let workload = Workload::new(ROOM, name, Unit::Rate(size))
        .stillmap("residency", move || {
            Sample::of(1, || {
                pages.residency(..).expect("residency").resident_pages() as u64
            })
        })
        .limit(BARE, move || Sample::of(1, || count_in_core(bytes)));
    match size {
        GIB.. => workload.claim(1.0 / 1.3, BARE),
        _ => workload,
    }
}

/// mincore(2) into one buffer, and a count.
fn count_in_core(bytes: &[u8]) -> u64 {
    let page = stillmap::page::size();
    let mut answers = vec![0_u8; 64 << 10];
    let mut count = 0;
    for part in bytes.chunks(answers.len() * page) {
        let (start, len) = (part.as_ptr().cast_mut().cast(), part.len());
        // SAFETY: one answer for each page of the part, and the buffer has that many.
        let done = unsafe { libc::mincore(start, len, answers.as_mut_ptr()) };
        assert_eq!(done, 0, "mincore");
        let answers = &answers[..len.div_ceil(page)];
        count += answers
            .iter()
            .map(|answer| u64::from(answer & 1))
            .sum::<u64>();
    }
    count
}

fn populate(name: String, size: usize) -> Workload<'static> {
    const BARE: &str = "bare MADV_POPULATE_WRITE";
    Workload::new(ROOM, name, Unit::Rate(size as u64))
        .stillmap("populate", move || {
            let options = Anonymous::options().huge_pages(HugePages::Never);
            let start = Instant::now();
            let memory = options.allocate(size).expect("allocate");
            memory.pages().populate(..).expect("populate");
            Sample::new(start.elapsed(), 1)
        })
        .limit(BARE, move || {
            let start = Instant::now();
            let memory = Bare::map(size, false);
            let address = memory.as_ptr().cast_mut().cast();
            // SAFETY: the mapping made above; this advice leaves the bytes alone.
            let done = unsafe { libc::madvise(address, size, libc::MADV_POPULATE_WRITE) };
            assert_eq!(done, 0, "madvise");
            Sample::new(start.elapsed(), 1)
        })
        .claim(0.9, BARE)
}

fn cold_scan(name: String, size: u64, path: &Path, times: u64) -> Workload<'_> {
    let map = move || {
        let file = File::open(path).expect("open");
        // SAFETY: no other code has the file.
        unsafe { memmap2::Mmap::map(&file) }.expect("map")
    };
    let then = move |bytes: &[u8]| work(times * size).wrapping_add(scan(bytes));
    let cold = move |run: &dyn Fn() -> u64| {
        evict(path);
        Sample::of(1, run)
    };
    let open = move || stillmap::Snapshot::open(path).expect("open");
    Workload::new(ROOM, name, Unit::Rate(size))
        .stillmap("Snapshot::open, prefetch", move || {
            cold(&|| {
                let bytes = open();
                let _prefetch = bytes.pages().prefetch(..).expect("prefetch");
                then(&bytes)
            })
        })
        .peer(ALONE, move || cold(&|| then(&open())))
        .peer(PLAIN, move || cold(&|| then(&map())))
        .peer("memmap2 map, Sequential", move || {
            cold(&|| {
                let bytes = map();
                bytes.advise(memmap2::Advice::Sequential).expect("advise");
                then(&bytes)
            })
        })
        .peer("memmap2 map, WillNeed", move || {
            cold(&|| {
                let bytes = map();
                bytes.advise(memmap2::Advice::WillNeed).expect("advise");
                then(&bytes)
            })
        })
        .peer("std::fs::read", move || {
            cold(&|| then(&std::fs::read(path).expect("read")))
        })
}

/// Adds up that many bytes, all in the processor's cache.
fn work(bytes: u64) -> u64 {
    let warm = vec![1; MIB as usize];
    (0..bytes / MIB).fold(0, |sum, _| sum.wrapping_add(scan(&warm)))
}

/// Out of RAM; it was written back when it was made.
fn evict(path: &Path) {
    let file = File::open(path).expect("open");
    // SAFETY: takes numbers.
    let done = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    assert_eq!(done, 0, "posix_fadvise");
}
