//! Times of this store and of `LocalFileSystem`, in turns: medians, and how many times as fast.
//!
//! `cargo run --release --example compare [-- DIRECTORY]`

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::ops::Range;
use std::time::{Duration, Instant};
use stillmap_object_store::StillmapFileSystem;

const MIB: u64 = 1 << 20;
const FILE: u64 = 256 * MIB;

/// What one measurement reads.
enum Work {
    Ranges(Vec<Range<u64>>),
    Calls(Vec<Range<u64>>),
    Whole,
    Put(usize),
}

struct Row {
    name: &'static str,
    work: Work,
    /// Runs of each store, in turns.
    runs: usize,
    /// Whether the file is dropped from the page cache before each run.
    cold: bool,
}

/// Ranges in an order that is the same on every run, spread over the file.
fn spread(count: u64, len: u64) -> Vec<Range<u64>> {
    let start = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % (FILE - len);
    (0..count).map(|i| start(i)..start(i) + len).collect()
}

fn rows() -> Vec<Row> {
    let row = |name, work, runs, cold| Row {
        name,
        work,
        runs,
        cold,
    };
    vec![
        row(
            "64 x 1 MiB, one get_ranges",
            Work::Ranges(spread(64, MIB)),
            11,
            false,
        ),
        row(
            "1,000 x 8 KiB, one get_ranges",
            Work::Ranges(spread(1000, 8 << 10)),
            21,
            false,
        ),
        row(
            "64 KiB a call, 1,000 get_range",
            Work::Calls(spread(1000, 64 << 10)),
            11,
            false,
        ),
        row("256 MiB, one get", Work::Whole, 7, false),
        row("64 x 1 MiB, cold", Work::Ranges(spread(64, MIB)), 7, true),
        row(
            "1,000 x 8 KiB, cold",
            Work::Ranges(spread(1000, 8 << 10)),
            5,
            true,
        ),
        row(
            "64 KiB a call, cold, 200 get_range",
            Work::Calls(spread(200, 64 << 10)),
            5,
            true,
        ),
        row("256 MiB, one get, cold", Work::Whole, 5, true),
        row("put of 4 KiB over an object", Work::Put(4 << 10), 51, false),
        row(
            "put of 16 MiB over an object",
            Work::Put(16 << 20),
            11,
            false,
        ),
    ]
}

/// Sums one byte of each page, so that every page is read.
fn touch(parts: &[Bytes]) -> u64 {
    let pages = parts.iter().flat_map(|part| part.iter().step_by(4096));
    pages.map(|&byte| u64::from(byte)).sum()
}

async fn run(store: &dyn ObjectStore, work: &Work) -> object_store::Result<u64> {
    let name = Path::from("object");
    Ok(match work {
        Work::Ranges(ranges) => touch(&store.get_ranges(&name, ranges).await?),
        Work::Calls(ranges) => {
            let mut sum = 0;
            for range in ranges {
                sum += touch(&[store.get_range(&name, range.clone()).await?]);
            }
            sum
        }
        Work::Whole => touch(&[store.get(&name).await?.bytes().await?]),
        Work::Put(len) => {
            store
                .put(&Path::from("small"), vec![1; *len].into())
                .await?;
            0
        }
    })
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, Into::into);
    let directory = tempfile::tempdir_in(root)?;
    let path = directory.path().join("object");
    std::fs::write(
        &path,
        (0..FILE).map(|i| (i / 4096) as u8).collect::<Vec<_>>(),
    )?;
    let file = File::open(&path)?;
    file.sync_all()?;
    let ours = StillmapFileSystem::new_with_prefix(directory.path())?;
    let theirs = LocalFileSystem::new_with_prefix(directory.path())?;
    println!(
        "{:36} {:>10} {:>16} {:>7}",
        "", "stillmap", "LocalFileSystem", "times"
    );
    for row in rows() {
        let mut times = [Vec::new(), Vec::new()];
        for turn in 0..2 * row.runs {
            let store: &dyn ObjectStore = if turn % 2 == 0 { &ours } else { &theirs };
            if row.cold {
                // Pages that are mapped stay in RAM.
                ours.clear_cache();
                fadvise(&file, 0, None, Advice::DontNeed)?;
            }
            let start = Instant::now();
            std::hint::black_box(run(store, &row.work).await?);
            times[turn % 2].push(start.elapsed());
        }
        let [ours, theirs] = times.map(|mut times| median(&mut times).as_secs_f64() * 1e3);
        println!(
            "{:36} {ours:>7.2} ms {theirs:>13.2} ms {:>6.1}x",
            row.name,
            theirs / ours
        );
    }
    Ok(())
}
