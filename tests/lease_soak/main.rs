//! Leases for as long as they are to be tried, on every file system, beside forks, daemons, stopped processes and limits:
//! `STILLMAP_SOAK_SECONDS=600 cargo test --release --test lease_soak -- --ignored --nocapture --test-threads=1`.
#![allow(clippy::disallowed_methods)]
#![allow(dead_code)] // a part of what it shares with tests/lease is used

mod readers;
#[path = "../lease/storm.rs"]
mod storm;
#[path = "../support/mod.rs"]
mod support;
mod writers;

use readers::Hardship;
use std::time::{Duration, Instant};
use support::disk::LoopFs;
use support::leased::{Disk, leased};

fn seconds() -> Duration {
    let seconds = std::env::var("STILLMAP_SOAK_SECONDS").unwrap_or_default();
    Duration::from_secs(seconds.parse().unwrap_or(60))
}

#[test]
fn the_competitor() {
    storm::serve();
}

#[test]
fn the_readers() {
    readers::serve();
}

#[test]
#[ignore = "takes as long as STILLMAP_SOAK_SECONDS says, 60 by default"]
fn breaks_survived() {
    let seed = support::random::seed();
    let disks = Disk::all();
    let each = seconds() / disks.len() as u32;
    for disk in &disks {
        let start = Instant::now();
        let survived = storm::storm(disk.path(), "the_competitor", seed, |_| {
            start.elapsed() < each
        });
        println!(
            "{}: {} blows, {} leases broken, 0 changed bytes",
            disk.name, survived.blows, survived.breaks
        );
        assert!(survived.breaks > 0);
    }
}

/// Readers of many files under one hardship after another, while writers rewrite the files: no byte changes, no process
/// dies, and it is printed how long the writers were held.
#[test]
#[ignore = "takes as long as STILLMAP_SOAK_SECONDS says, 60 by default"]
fn hardships_survived() {
    let seed = support::random::seed();
    let kinds = ["ext4", "xfs", "btrfs", "tmpfs"];
    let disks: Vec<_> = kinds
        .into_iter()
        .filter_map(|kind| Some((kind, LoopFs::new(kind, 2 << 30)?)))
        .collect();
    let each = seconds() / (disks.len() * Hardship::ALL.len()) as u32;
    for (number, hardship) in Hardship::ALL.into_iter().enumerate() {
        for (kind, disk) in &disks {
            let seed = seed.wrapping_add(number as u64);
            writers::run(kind, disk.path(), hardship, seed, each);
        }
    }
}
