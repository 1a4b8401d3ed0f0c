//! Opening and scanning one warm file, size by size: where reading ends and mapping begins.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

#[path = "inputs/files.rs"]
mod files;
#[path = "inputs/noise.rs"]
mod noise;
#[path = "inputs/scan.rs"]
mod scan;
#[path = "inputs/size.rs"]
mod size;

use scan::scan;

fn open_and_scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open and scan");
    for shift in [12, 14, 16, 17, 18, 19, 20, 21, 22, 24] {
        let size = 1 << shift;
        let files = files::Files::create(size, 1).expect("a file");
        let path = files.paths()[0].as_path();
        let label = size::name(size);
        group.throughput(Throughput::Bytes(size));
        group.bench_with_input(
            BenchmarkId::new("stillmap::open", &label),
            path,
            |bencher, path| {
                bencher.iter(|| scan(&stillmap::open(path).expect("stillmap::open")));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("std::fs::read", &label),
            path,
            |bencher, path| {
                bencher.iter(|| scan(&std::fs::read(path).expect("read")));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("memmap2 map", &label),
            path,
            |bencher, path| {
                bencher.iter(|| scan(&map(path)));
            },
        );
    }
    group.finish();
}

fn map(path: &Path) -> memmap2::Mmap {
    let file = File::open(path).expect("open");
    // SAFETY: the file belongs to this program, which leaves it alone while it is mapped.
    unsafe { memmap2::Mmap::map(&file) }.expect("map")
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(2));
    targets = open_and_scan
}
criterion_main!(benches);
