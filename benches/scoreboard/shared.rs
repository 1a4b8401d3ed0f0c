//! Shared memory: bulk bytes beside memcpy, counters beside plain atomics, forked workers, and a fault that is handled.

use std::fs::OpenOptions;
use std::hint::black_box;
use std::io;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stillmap::{Anonymous, Shared, fork};

use crate::bare::Bare;
use crate::measure::{Board, Sample, Unit, Workload};
use crate::size;

const ROOM: &str = "shared";

pub fn measure(board: &mut Board) -> io::Result<()> {
    // For 64 bytes the claim is 5 ns beside 3, for the others the rate of memcpy.
    for (size, times) in [(64, 0.375), (4 << 10, 0.95), (1 << 20, 0.95)] {
        let name = format!("read_at of {}", size::name(size as u64));
        if board.wants(ROOM, &name, 0) {
            board.measure(read_at(name, size, times)?);
        }
        let name = format!("write_at of {}", size::name(size as u64));
        if board.wants(ROOM, &name, 0) {
            board.measure(write_at(name, size, times)?);
        }
    }
    if board.wants(ROOM, "fetch_add", 0) {
        board.measure(fetch_add()?);
    }
    let name = "256 MiB filled by forked workers";
    if board.wants(ROOM, name, 0) {
        board.measure(workers(name));
    }
    let name = "a lost page replaced";
    if board.wants(ROOM, name, 0) {
        board.measure(fault(name)?);
    }
    Ok(())
}

/// Copies often enough to take some milliseconds.
fn copies(size: usize) -> usize {
    ((64 << 20) / (size + 400)).max(100)
}

/// Memory that starts on a page and holds ones, as the mapping does.
fn ones(size: usize) -> Bare {
    let mut memory = Bare::map(size, false);
    memory.fill(1);
    memory
}

fn shared(size: usize) -> io::Result<Shared<[AtomicU8]>> {
    let shared = Shared::<[AtomicU8]>::memfd_slice("scoreboard", size)?;
    shared.write_at(0, &vec![1; size])?;
    Ok(shared)
}

fn read_at(name: String, size: usize, times: f64) -> io::Result<Workload<'static>> {
    let shared = shared(size)?;
    let (source, mut mine, mut theirs) = (ones(size), ones(size), ones(size));
    let n = copies(size);
    Ok(Workload::new(ROOM, name, Unit::Rate(size as u64))
        .stillmap("read_at", move || {
            let (shared, mine) = (&shared, &mut mine[..]);
            Sample::of(n, || {
                for _ in 0..n {
                    let done = shared.read_at(black_box(0), black_box(&mut *mine));
                    done.expect("read_at");
                }
                u64::from(mine[size - 1])
            })
        })
        .limit("memcpy", move || {
            let (theirs, source) = (&mut theirs[..], &source[..]);
            Sample::of(n, || {
                for _ in 0..n {
                    black_box(&mut *theirs).copy_from_slice(black_box(source));
                }
                u64::from(theirs[size - 1])
            })
        })
        .claim(times, "memcpy"))
}

fn write_at(name: String, size: usize, times: f64) -> io::Result<Workload<'static>> {
    let shared = shared(size)?;
    let (mine, source, mut theirs) = (ones(size), ones(size), ones(size));
    let n = copies(size);
    Ok(Workload::new(ROOM, name, Unit::Rate(size as u64))
        .stillmap("write_at", move || {
            let (shared, mine) = (&shared, &mine[..]);
            Sample::of(n, || {
                for _ in 0..n {
                    let done = shared.write_at(black_box(0), black_box(mine));
                    done.expect("write_at");
                }
                u64::from(shared[size - 1].load(Ordering::Relaxed))
            })
        })
        .limit("memcpy", move || {
            let (theirs, source) = (&mut theirs[..], &source[..]);
            Sample::of(n, || {
                for _ in 0..n {
                    black_box(&mut *theirs).copy_from_slice(black_box(source));
                }
                u64::from(theirs[size - 1])
            })
        })
        .claim(times, "memcpy"))
}

fn fetch_add() -> io::Result<Workload<'static>> {
    const TIMES: usize = 1 << 20;
    let shared = Shared::<AtomicU64>::memfd("scoreboard")?;
    let plain = AtomicU64::new(0);
    Ok(Workload::new(ROOM, "fetch_add", Unit::Time)
        .stillmap("Shared<AtomicU64>", move || {
            Sample::of(TIMES, || {
                count(TIMES, || shared.fetch_add(1, Ordering::Relaxed))
            })
        })
        .limit("AtomicU64", move || {
            Sample::of(TIMES, || {
                count(TIMES, || plain.fetch_add(1, Ordering::Relaxed))
            })
        })
        .claim(0.95, "AtomicU64"))
}

fn count(times: usize, mut add: impl FnMut() -> u64) -> u64 {
    let first = add();
    for _ in 2..times {
        add();
    }
    add() - first
}

fn workers(name: &'static str) -> Workload<'static> {
    const SIZE: usize = 256 << 20;
    Workload::new(ROOM, name, Unit::Rate(SIZE as u64))
        .stillmap("2 workers", || fill(SIZE, 2))
        .peer("1 worker", || fill(SIZE, 1))
        .claim(1.6, "1 worker")
}

/// Fork, fault in, fill, wait: what a program sees.
fn fill(size: usize, workers: usize) -> Sample {
    let mut memory = Anonymous::shared(size).expect("memory");
    let start = Instant::now();
    fork::scope(|s| {
        for part in memory.page_chunks_mut(size / workers) {
            s.spawn_with(part, |part| part.fill(1)).expect("fork");
        }
    })
    .expect("all workers");
    let time = start.elapsed();
    let sample = memory.iter().step_by(4093).map(|&byte| u64::from(byte));
    Sample::new(time, 1).check(sample.sum())
}

/// From the touch of a page that is gone to the value that replaces it: 1 MiB was mapped.
fn fault(name: &'static str) -> io::Result<Workload<'static>> {
    const SIZE: usize = 1 << 20;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    Ok(Workload::new(ROOM, name, Unit::Time)
        .stillmap("Shared of a file", move || {
            let path = dir.path().join("file");
            let shared = Shared::<[AtomicU8]>::create_slice(&path, SIZE).expect("create");
            shared.write_at(0, &vec![1; SIZE]).expect("write_at");
            let file = OpenOptions::new().write(true).open(&path).expect("open");
            file.set_len(0).expect("truncate");
            let start = Instant::now();
            let value = black_box(shared[SIZE / 2].load(Ordering::Relaxed));
            let time = start.elapsed();
            assert!(shared.check_fault().is_err());
            Sample::new(time, 1).check(u64::from(value))
        })
        // Not measured: what was promised.
        .limit("promised: 100 us", || {
            Sample::new(Duration::from_micros(100), 1).check(0)
        })
        .claim(1.0, "promised: 100 us"))
}
