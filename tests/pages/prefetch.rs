//! Files read in by the thread of a guard: all of the range comes, nothing else is touched, and the thread ends with the
//! guard.

use crate::residency::evict;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{fork_into, scenario};
use crate::support::disk::LoopFs;
use crate::support::kernel::{
    can_populate, fill_mappings, may_map, most_mappings, page_size, present_pages, threads,
};
use crate::support::leased::Folder;
use crate::support::refuse::{Refusal, refuse_if};
use crate::support::{file_with, skip};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use stillmap::{Backing, Error, Prefetch, Snapshot};

fn wait_for(prefetch: &Prefetch<'_>) {
    while !prefetch.is_finished() {
        std::thread::yield_now();
    }
}

fn open(path: &Path) -> Snapshot {
    let snapshot = stillmap::Snapshot::open(path).expect("open");
    assert_eq!(snapshot.backing(), Backing::Leased);
    snapshot
}

#[test]
fn a_large_cold_range_comes_in_behind_ones_back() {
    if !can_populate() {
        return;
    }
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let page = page_size();
        let bytes = pattern(1, 48 << 20);
        let path = file_with(folder.path(), "file", &bytes);
        let snapshot = open(&path);
        evict(&File::open(&path).expect("open"));
        // Both ends inside a page.
        let range = 5 * page + 1..(40 << 20) + 1;
        let prefetch = snapshot.pages().prefetch(range.clone()).expect("prefetch");
        wait_for(&prefetch);
        assert_eq!(
            present_pages(&snapshot[range.clone()]),
            range.end.div_ceil(page) - 5
        );
        // A fault maps what is around it, a huge page at most.
        assert_eq!(present_pages(&snapshot[42 << 20..]), 0);
        assert_same(&snapshot, &bytes, "the file");
        // And again, by a second thread.
        wait_for(&snapshot.pages().prefetch(..).expect("prefetch"));
        assert_eq!(present_pages(&snapshot), bytes.len() / page);
    })
    .succeed();
}

/// The thread of a guard that is dropped touches nothing more, whatever comes to the addresses of the mapping.
#[test]
fn it_stops_when_the_guard_is_dropped() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("sparse");
        let file = File::create(&path).expect("create");
        file.set_len(1 << 30).expect("make it long");
        drop(file);
        let snapshot = open(&path);
        let others = threads();
        for round in 0..100 {
            let prefetch = snapshot.pages().prefetch(round << 20..).expect("prefetch");
            assert_eq!(threads(), others + 1);
            drop(prefetch);
            let present = present_pages(&snapshot);
            assert!(present < snapshot.len() / page_size(), "it was too fast");
            assert_eq!(threads(), others);
            assert_eq!(present_pages(&snapshot), present);
        }
    })
    .succeed();
}

/// A scope fails while a guard has a thread; in a forked child a guard has none.
#[test]
fn a_guard_and_a_fork() {
    scenario!(|| {
        const LEN: u64 = 64 << 30;
        let Some(folder) = Folder::new().filter(|_| may_map(LEN)) else {
            return;
        };
        let path = folder.path().join("sparse");
        let file = File::create(&path).expect("create");
        file.set_len(LEN).expect("make it long");
        drop(file);
        let snapshot = open(&path);
        for _ in 0..20 {
            let prefetch = snapshot.pages().prefetch(..).expect("prefetch");
            let refused = stillmap::fork::scope(|_| ());
            // With large pages and little memory it may have ended meanwhile.
            if !prefetch.is_finished() {
                assert!(matches!(refused, Err(Error::MultiThreaded { .. })));
            }
            let in_child = || {
                // This one, and the two that look after the child's own lease: none prefetches.
                assert_eq!(threads(), 3);
                // It returns at once, and a second one works.
                drop(prefetch);
            };
            // SAFETY: the other threads are those of stillmap.
            unsafe { fork_into(in_child) }.succeed();
            stillmap::fork::scope(|_| ()).expect("no guard is left");
        }
    })
    .succeed();
}

#[test]
fn a_writer_comes_meanwhile() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let bytes = pattern(6, 8 << 20);
        for round in 0..30 {
            let path = file_with(folder.path(), "file", &bytes);
            let snapshot = open(&path);
            evict(&File::open(&path).expect("open"));
            let _before = snapshot.pages().prefetch(..).expect("prefetch");
            std::fs::write(&path, "something else").expect("write");
            assert_ne!(snapshot.backing(), Backing::Leased);
            let _after = snapshot.pages().prefetch(..).expect("prefetch");
            assert_same(&snapshot, &bytes, format_args!("round {round}"));
            assert!(snapshot.is_consistent());
        }
    })
    .succeed();
}

#[test]
fn where_pages_cannot_be_populated_all_of_them_are_read_as_well() {
    scenario!(|| {
        let Some(disk) = LoopFs::new("ext4", 64 << 20) else {
            return;
        };
        // Then its device is asked for no more than its largest request at once, 1280 KiB.
        let device = disk.path().metadata().expect("its device").dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let ahead = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
        std::fs::write(ahead, "128").expect("set the readahead");
        // Linux before 5.14.
        refuse_if(Refusal {
            call: libc::SYS_madvise,
            errno: libc::EINVAL,
            argument: Some((2, u32::MAX, libc::MADV_POPULATE_READ as u32)),
        });
        let bytes = pattern(7, 16 << 20);
        let path = file_with(disk.path(), "file", &bytes);
        let snapshot = open(&path);
        evict(&File::open(&path).expect("open"));
        wait_for(&snapshot.pages().prefetch(..).expect("prefetch"));
        // What was asked for comes.
        while !snapshot.pages().residency(..).expect("residency").is_full() {
            std::thread::yield_now();
        }
    })
    .succeed();
}

#[test]
fn without_room_for_a_thread_it_does_without() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        if most_mappings() > 1 << 20 {
            return skip("vm.max_map_count is out of reach");
        }
        let path = file_with(folder.path(), "file", &pattern(8, 4 << 20));
        let snapshot = open(&path);
        let mut give_back = fill_mappings();
        // From none to enough for all that a thread maps.
        for _ in 0..8 {
            wait_for(&snapshot.pages().prefetch(..).expect("prefetch"));
            give_back();
        }
    })
    .succeed();
}
