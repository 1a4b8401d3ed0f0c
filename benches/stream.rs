//! Reading a pipe to its end, size by size.
#![allow(clippy::disallowed_methods)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group};

#[path = "inputs/noise.rs"]
mod noise;
#[path = "inputs/pipe.rs"]
mod pipe;
#[path = "inputs/size.rs"]
mod size;

use pipe::Pipe;

fn pipe_to_memory(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pipe to memory");
    for shift in [16, 20, 24, 26] {
        let size = 1 << shift;
        let label = size::name(size);
        group.throughput(Throughput::Bytes(size));
        group.bench_with_input(
            BenchmarkId::new("Snapshot::from_fd", &label),
            &size,
            |bencher, &size| {
                bencher.iter_custom(|times| {
                    total(times, size, |pipe| {
                        stillmap::Snapshot::from_fd(pipe).map_err(io::Error::from)
                    })
                });
            },
        );
        group.bench_with_input(
            BenchmarkId::new("read_to_end", &label),
            &size,
            |bencher, &size| {
                bencher.iter_custom(|times| total(times, size, read_to_end));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("read_to_end, wide pipe", &label),
            &size,
            |bencher, &size| {
                bencher.iter_custom(|times| {
                    total(times, size, |pipe| {
                        pipe::widen(pipe, 1 << 20)?;
                        read_to_end(pipe)
                    })
                });
            },
        );
    }
    group.finish();
}

/// Time of `read` alone, over `times` pipes of their own writers.
fn total<B: AsRef<[u8]>>(
    times: u64,
    size: u64,
    read: impl Fn(&OwnedFd) -> io::Result<B>,
) -> Duration {
    let once = || {
        let pipe = Pipe::open(size, 64 << 10).expect("writer");
        let start = Instant::now();
        let bytes = read(&pipe.reader).expect("read");
        let time = start.elapsed();
        pipe.close().expect("writer");
        assert_eq!(bytes.as_ref().len() as u64, size);
        time
    };
    (0..times).map(|_| once()).sum()
}

fn read_to_end(pipe: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(pipe.try_clone()?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = pipe_to_memory
}

fn main() {
    pipe::write_if_asked();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
