//! Resident memory after snapshots were dropped. Each test counts in a process of its own.

use crate::support::bytes::pattern;
use crate::support::child::scenario;
use crate::support::namespace::{bind, own_mounts};
use crate::support::pipe::{feed, pipe};
use crate::support::{file_with, kernel, skip, temp_dir};
use std::path::Path;
use std::sync::Mutex;
use stillmap::Snapshot;

const MIB: usize = 1 << 20;

/// By how many bytes this process has grown since.
struct Resident(usize);

impl Resident {
    fn now() -> Self {
        Resident(kernel::status("VmRSS"))
    }

    #[track_caller]
    fn assert_grown_at_most(&self, bytes: usize, what: &str) {
        // What the allocator keeps does not belong to snapshots.
        #[cfg(target_env = "gnu")]
        // SAFETY: touches free memory only.
        unsafe {
            libc::malloc_trim(0)
        };
        let grown = kernel::status("VmRSS").saturating_sub(self.0);
        assert!(
            grown <= bytes,
            "{what}: {} KiB more, not {}",
            grown >> 10,
            bytes >> 10
        );
    }
}

fn shuffle<T>(items: &mut [T]) {
    let mut random = 0x5851_f42d_4c95_7f2d_u64;
    for index in (1..items.len()).rev() {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        items.swap(index, (random >> 33) as usize % (index + 1));
    }
}

#[test]
fn ten_thousand_snapshots_dropped_in_random_order_leave_nothing() {
    scenario!(|| {
        let dir = temp_dir();
        let sizes = [1, 100, 4_096, 10_000, 40_000];
        let file = |len: &usize| file_with(dir.path(), &len.to_string(), &pattern(1, *len));
        let paths: Vec<_> = sizes.iter().map(file).collect();
        let mut snapshots = Vec::with_capacity(10_000);
        snapshots.push(stillmap::Snapshot::open(&paths[0]).unwrap());
        let before = Resident::now();
        for _ in 0..2 {
            let paths = paths.iter().cycle();
            snapshots.extend(
                paths
                    .take(10_000)
                    .map(|path| stillmap::Snapshot::open(path).unwrap()),
            );
            shuffle(&mut snapshots);
            while snapshots.pop().is_some() {}
        }
        before.assert_grown_at_most(8 * MIB, "10,000 snapshots");
    })
    .succeed();
}

/// The worst cases that `src/buffer/slab.rs` states.
#[test]
fn one_small_snapshot_of_each_thousand_keeps_few_pages() {
    scenario!(|| {
        let dir = temp_dir();
        let tiny = file_with(dir.path(), "tiny", b"t");
        for len in [1, 4_096, 60_000] {
            let path = file_with(dir.path(), "file", &pattern(1, len));
            let mut kept = Vec::with_capacity(50);
            let before = Resident::now();
            for _ in 0..50 {
                let batch: Vec<_> = (0..1000)
                    .map(|n| {
                        stillmap::Snapshot::open(if n == 500 { &tiny } else { &path }).unwrap()
                    })
                    .collect();
                kept.extend(batch.into_iter().nth(500));
            }
            assert!(kept.iter().all(|snapshot| snapshot[..] == *b"t"));
            // The thread's slab, one that is kept for later, and 64 KiB for each snapshot.
            let most = 2 * 4 * MIB + kept.len() * (64 << 10);
            before.assert_grown_at_most(most + MIB, &len.to_string());
        }
    })
    .succeed();
}

/// Case: a stream gets 128 KiB before its length is known.
#[test]
fn small_streams_keep_what_they_need() {
    scenario!(|| {
        let open = || Snapshot::options().open("/proc/self/stat").unwrap();
        let before = Resident::now();
        let snapshots: Vec<_> = (0..2_000).map(|_| open()).collect();
        before.assert_grown_at_most(6 * MIB, "2,000 streams of a few hundred bytes");
        drop(snapshots);
        before.assert_grown_at_most(4 * MIB + MIB / 2, "all dropped");
    })
    .succeed();
}

#[test]
fn threads_leave_nothing_and_share_what_is_kept() {
    scenario!(|| {
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", &pattern(1, 10_000));
        let work = || {
            let snapshots: Vec<_> = (0..1000)
                .map(|_| stillmap::Snapshot::open(&path).unwrap())
                .collect();
            assert!(snapshots.iter().all(|it| it.len() == 10_000));
        };
        std::thread::scope(|scope| drop(scope.spawn(work)));
        let before = Resident::now();
        let handed_over = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    work();
                    let last = (0..100).map(|_| stillmap::Snapshot::open(&path).unwrap());
                    handed_over.lock().unwrap().extend(last);
                });
            }
        });
        drop(handed_over);
        stillmap::release_unused_memory();
        before.assert_grown_at_most(2 * MIB, "8 threads");
    })
    .succeed();
}

/// A kernel with pages of 16 or 64 KiB has huge pages of 32 or 512 MiB (aarch64); here, one that says so. Before: each copy was in
/// a mapping of so many bytes, which its first byte would have filled.
#[test]
fn a_copy_does_not_take_a_huge_page_that_is_much_larger() {
    scenario!(|| {
        let setting = Path::new("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
        if !setting.exists() {
            return skip("no huge pages");
        }
        if !own_mounts() {
            return;
        }
        let dir = temp_dir();
        bind(&file_with(dir.path(), "size", b"33554432\n"), setting);
        let path = file_with(dir.path(), "file", &pattern(1, MIB + 1));
        let copies = || {
            let (reader, writer) = pipe();
            let writing = feed(writer, pattern(2, MIB));
            let stream = Snapshot::from_fd(&reader).unwrap();
            writing.join().unwrap();
            let copy = Snapshot::options().lease(false).open(&path).unwrap();
            assert_eq!((copy.len(), stream.len()), (MIB + 1, MIB));
            [copy, stream]
        };
        let _first = copies();
        let before = kernel::status("VmSize");
        let many = [(); 5].map(|()| copies());
        let grown = kernel::status("VmSize") - before;
        assert!(grown < 100 * MIB, "{} MiB", grown / MIB);
        drop(many);
    })
    .succeed();
}
