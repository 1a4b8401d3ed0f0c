//! Zeroed memory: getting it, touching every page, giving it back.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use stillmap::{Anonymous, HugePages};

#[path = "inputs/size.rs"]
mod size;
#[path = "inputs/touch.rs"]
mod touch;

use touch::touch;

fn allocate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocate and free untouched");
    for shift in [12, 20, 30] {
        let size = 1 << shift;
        let label = size::name(size as u64);
        group.bench_with_input(
            BenchmarkId::new("Anonymous::new", &label),
            &size,
            |bencher, &size| {
                bencher.iter(|| Anonymous::new(size).expect("new"));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("memmap2 map_anon", &label),
            &size,
            |bencher, &size| {
                bencher.iter(|| memmap2::MmapMut::map_anon(size).expect("map_anon"));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("vec![0; n]", &label),
            &size,
            |bencher, &size| {
                bencher.iter(|| vec![0u8; black_box(size)]);
            },
        );
    }
    group.finish();
}

/// (Up to some 32 MiB the allocator keeps what was freed, so `vec!` then touches old memory, and zeroes it.)
fn first_touch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("first touch");
    for shift in [16, 20, 24, 28] {
        let size = 1 << shift;
        let label = size::name(size as u64);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(
            BenchmarkId::new("Anonymous, huge pages", &label),
            &size,
            |bencher, &size| {
                let options = || Anonymous::options().huge_pages(HugePages::Transparent);
                bencher.iter(|| touch(&mut options().allocate(size).expect("allocate")));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("Anonymous::new", &label),
            &size,
            |bencher, &size| {
                bencher.iter(|| touch(&mut Anonymous::new(size).expect("new")));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("memmap2 map_anon", &label),
            &size,
            |bencher, &size| {
                bencher.iter(|| touch(&mut memmap2::MmapMut::map_anon(size).expect("map_anon")));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("vec![0; n]", &label),
            &size,
            |bencher, &size| {
                bencher.iter(|| touch(&mut vec![0u8; size]));
            },
        );
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = allocate, first_touch
}
criterion_main!(benches);
