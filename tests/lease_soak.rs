//! The storm of `tests/lease` for a given time:
//! `STILLMAP_SOAK_SECONDS=600 cargo test --release --test lease_soak -- --ignored --nocapture`.
#![allow(clippy::disallowed_methods)]
#![allow(dead_code)] // a part of what it shares with tests/lease is used

#[path = "lease/storm.rs"]
mod storm;
#[path = "support/mod.rs"]
mod support;

use std::time::{Duration, Instant};
use support::leased::{Disk, leased};

#[test]
fn the_competitor() {
    storm::serve();
}

#[test]
#[ignore = "takes as long as STILLMAP_SOAK_SECONDS says, 60 by default"]
fn breaks_survived() {
    let seconds = std::env::var("STILLMAP_SOAK_SECONDS").unwrap_or_default();
    let total = Duration::from_secs(seconds.parse().unwrap_or(60));
    let seed = support::random::seed();
    let disks = Disk::all();
    let each = total / disks.len() as u32;
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
