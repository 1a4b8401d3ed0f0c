//! Bytes of snapshots that share slabs.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{fork, scenario};
use crate::support::random::seed;
use crate::support::{file_with, kernel, skip, temp_dir};
use std::path::PathBuf;
use std::sync::mpsc;
use stillmap::{Backing, Snapshot};

const SIZES: [usize; 9] = [1, 63, 64, 65, 4_096, 20_000, 65_536, 131_072, 300_000];

/// One file of each size; its bytes depend on its index.
struct Files {
    paths: Vec<PathBuf>,
    _dir: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let dir = temp_dir();
        let file = |(seed, len): (u64, &usize)| {
            file_with(dir.path(), &len.to_string(), &pattern(seed, *len))
        };
        let paths = (0..).zip(&SIZES).map(file).collect();
        Files { paths, _dir: dir }
    }

    /// Always read, never mapped.
    fn open(&self, index: usize) -> Snapshot {
        let snapshot = Snapshot::options()
            .lease(false)
            .open(&self.paths[index])
            .unwrap();
        assert_eq!(snapshot.as_ptr().addr() % 64, 0);
        snapshot
    }

    #[track_caller]
    fn check(&self, index: usize, bytes: &[u8]) {
        assert_same(bytes, &pattern(index as u64, SIZES[index]), SIZES[index]);
    }
}

/// Two hundred snapshots, in slabs from the first few on.
fn some(files: &Files) -> Vec<(usize, Snapshot)> {
    let indices = (0..200).map(|n| n % SIZES.len());
    indices.map(|index| (index, files.open(index))).collect()
}

/// Case: pages are returned to the kernel around blocks that live, and memory is used again while blocks live.
#[test]
fn snapshots_keep_their_bytes_whichever_others_are_dropped() {
    let files = Files::new();
    let mut random = seed();
    let mut below = move |n: usize| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (random >> 33) as usize % n
    };
    let mut alive: Vec<(usize, Snapshot)> = Vec::new();
    for round in 0..4_000 {
        // Few, then many, then few: slabs become sparse.
        let wanted = if round / 500 % 2 == 0 { 150 } else { 3 };
        if alive.len() < wanted {
            let index = below(SIZES.len());
            alive.push((index, files.open(index)));
        }
        while alive.len() > wanted {
            let (index, snapshot) = alive.swap_remove(below(alive.len()));
            files.check(index, &snapshot);
        }
        if !alive.is_empty() && below(3) == 0 {
            let (index, snapshot) = alive.swap_remove(below(alive.len()));
            files.check(index, &snapshot);
        }
        if round % 250 == 0 {
            alive
                .iter()
                .for_each(|(index, snapshot)| files.check(*index, snapshot));
        }
    }
    alive
        .iter()
        .for_each(|(index, snapshot)| files.check(*index, snapshot));
}

/// Case: a block outlives the thread that made it, and another thread drops it.
#[test]
fn other_threads_read_and_drop_the_snapshots_of_a_thread_that_ended() {
    let files = Files::new();
    let (send, receive) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (files, send) = (&files, send.clone());
            scope.spawn(move || {
                some(files)
                    .into_iter()
                    .for_each(|it| send.send(it).unwrap())
            });
        }
        drop(send);
        let mut kept = Vec::new();
        for (number, (index, snapshot)) in receive.iter().enumerate() {
            files.check(index, &snapshot);
            if number % 10 == 0 {
                kept.push((index, snapshot));
            }
        }
        kept.iter()
            .for_each(|(index, snapshot)| files.check(*index, snapshot));
    });
}

/// Case: a child has private copies. What it drops and reads there changes nothing in its parent.
#[test]
fn a_forked_child_has_copies() {
    scenario!(|| {
        let files = Files::new();
        let snapshots = some(&files);
        let mut snapshots = Some(snapshots);
        let child = fork(|| {
            let mut copies = snapshots.take().unwrap();
            // Most pages are returned in the child, and its new snapshots use the rest.
            copies.retain(|(index, snapshot)| {
                files.check(*index, snapshot);
                *index == 0
            });
            let more = some(&files);
            copies
                .iter()
                .chain(&more)
                .for_each(|(index, it)| files.check(*index, it));
        });
        child.succeed();
        let snapshots = snapshots.unwrap();
        snapshots
            .iter()
            .for_each(|(index, it)| files.check(*index, it));
    })
    .succeed();
}

/// Case: no huge pages (`transparent_hugepage=never`, PR_SET_THP_DISABLE). Then all is in the heap.
#[test]
fn without_huge_pages_the_heap_is_used() {
    scenario!(|| {
        // SAFETY: takes plain numbers.
        let disabled = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
        if disabled != 0 {
            return skip("PR_SET_THP_DISABLE is not allowed");
        }
        let files = Files::new();
        let snapshots = some(&files);
        snapshots
            .iter()
            .for_each(|(index, it)| files.check(*index, it));
        assert!(
            snapshots
                .iter()
                .all(|(_, it)| it.backing() == Backing::Memory)
        );
        let huge = snapshots.iter().filter(|(_, it)| in_huge_page(it)).count();
        assert_eq!(huge, 0);
    })
    .succeed();
}

#[test]
fn many_small_snapshots_are_in_huge_pages() {
    scenario!(|| {
        let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        if !enabled.is_ok_and(|text| !text.contains("[never]")) {
            return skip("no transparent huge pages");
        }
        let files = Files::new();
        let snapshots: Vec<_> = (0..2000).map(|_| files.open(4)).collect();
        let faults = kernel::minor_faults();
        let more: Vec<_> = (0..2000).map(|_| files.open(4)).collect();
        // 8 MiB: 2,000 faults in small pages.
        assert!(kernel::minor_faults() - faults < 500);
        assert!(in_huge_page(&snapshots[1999]) || in_huge_page(&more[1999]));
    })
    .succeed();
}

fn in_huge_page(bytes: &[u8]) -> bool {
    let start = bytes.as_ptr().addr();
    kernel::smaps(start..start + 1, "AnonHugePages") > 0
}
