//! Files read in by a thread: all of the range comes, nothing else is ever touched, and nobody has to know of the thread.

use crate::residency::evict;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{fork_into, scenario};
use crate::support::disk::LoopFs;
use crate::support::exclusive;
use crate::support::kernel::{
    can_populate, fill_mappings, may_open, most_mappings, page_size, present_pages, threads,
};
use crate::support::leased::Folder;
use crate::support::refuse::{Refusal, refuse_if};
use crate::support::{file_with, skip};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Barrier;
use stillmap::{Backing, Error, Snapshot};

/// The main thread, and the keeper.
const OTHERS: usize = 2;

fn prefetching() -> usize {
    threads() - OTHERS
}

/// Returns when there is nothing more to come.
fn wait_until_idle() {
    while prefetching() > 0 {
        std::thread::yield_now();
    }
}

fn open(path: &Path) -> Snapshot {
    let snapshot = stillmap::open(path).expect("open");
    assert_eq!(snapshot.backing(), Backing::Leased);
    snapshot
}

/// A mapping of nothing, with what is at these addresses, if anything, left where it is.
fn memory_at(address: usize, len: usize) -> Option<&'static mut [u8]> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: replaces nothing.
    let start = unsafe { libc::mmap(address as *mut _, len, access, flags, -1, 0) };
    // SAFETY: mapped just now, and unmapped by nobody but its user.
    (start as usize == address)
        .then(|| unsafe { std::slice::from_raw_parts_mut(start.cast(), len) })
}

fn unmap(memory: &'static mut [u8]) {
    // SAFETY: nobody else refers to it.
    unsafe { libc::munmap(memory.as_mut_ptr().cast(), memory.len()) };
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
        snapshot.pages().prefetch(range.clone()).expect("prefetch");
        wait_until_idle();
        assert_eq!(
            present_pages(&snapshot[range.clone()]),
            range.end.div_ceil(page) - 5
        );
        // A fault maps what is around it, a huge page at most.
        assert_eq!(present_pages(&snapshot[42 << 20..]), 0);
        assert_same(&snapshot, &bytes, "the file");
        // And again, by a new thread.
        snapshot.pages().prefetch(..).expect("prefetch");
        wait_until_idle();
        assert_eq!(present_pages(&snapshot), bytes.len() / page);
    })
    .succeed();
}

#[test]
fn what_comes_to_the_addresses_of_a_dropped_mapping_is_not_touched() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file_with(folder.path(), "file", &pattern(2, 32 << 20));
        let mut found = 0;
        for round in 0..200 {
            let snapshot = open(&path);
            let (start, len) = (snapshot.as_ptr() as usize, snapshot.len());
            let cold = round % 2 == 0;
            if cold {
                evict(&File::open(&path).expect("open"));
            }
            snapshot.pages().prefetch(..).expect("prefetch");
            // In the middle of it, while the disk is waited for.
            while cold && prefetching() > 0 && present_pages(&snapshot) == 0 {
                std::thread::yield_now();
            }
            drop(snapshot);
            let Some(memory) = memory_at(start, len) else {
                continue;
            };
            wait_until_idle();
            assert_eq!(present_pages(memory), 0);
            unmap(memory);
            found += 1;
        }
        assert!(found > 0, "never got the same addresses");
    })
    .succeed();
}

#[test]
fn an_edited_file_is_resized_meanwhile() {
    scenario!(|| {
        let Some(disk) = exclusive::any_system() else {
            return;
        };
        let page = page_size();
        let bytes = pattern(3, 24 << 20);
        let path = file_with(disk.path(), "file", &bytes);
        let mut file = exclusive::open(&path);
        for round in 0..50 {
            file.pages().prefetch(..).expect("prefetch");
            let (start, len) = (file.as_ptr() as usize, file.len());
            let shorter = len - len / 3 / page * page;
            file.resize(shorter).expect("resize");
            if let Some(memory) = memory_at(start + shorter, len - shorter) {
                wait_until_idle();
                assert_eq!(present_pages(memory), 0, "round {round}");
                unmap(memory);
            }
            file.pages().prefetch(..).expect("prefetch");
            file.resize(len).expect("resize");
        }
        file.pages().prefetch(..).expect("prefetch");
        let kept = bytes.len() - bytes.len() / 3 / page * page;
        assert_same(&file[..kept], &bytes[..kept], "what was never cut off");
        file.close().expect("close");
        assert_eq!(std::fs::read(&path).expect("read").len(), bytes.len());
    })
    .succeed();
}

#[test]
fn it_is_no_thread_in_the_way_of_a_fork() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let bytes = pattern(4, 32 << 20);
        let path = file_with(folder.path(), "file", &bytes);
        let ask = |path: &Path| {
            let snapshot = open(path);
            snapshot.pages().prefetch(..).expect("prefetch");
            snapshot
        };
        for _ in 0..20 {
            let snapshot = ask(&path);
            stillmap::fork::scope(|scope| {
                // From inside, too.
                snapshot.pages().prefetch(..).expect("prefetch");
                let child = scope.spawn(|| {
                    // The parent's is not there; one of its own is.
                    assert_eq!(threads(), 1);
                    assert_same(&ask(&path), &bytes, "in the child");
                });
                child.map(drop)
            })
            .expect("scope")
            .expect("spawn");
            // Not by way of this crate, while it is under way.
            snapshot.pages().prefetch(..).expect("prefetch");
            let in_child = || {
                drop(snapshot);
                let own = ask(&path);
                while present_pages(&own) < bytes.len() / page_size() {
                    std::thread::yield_now();
                }
            };
            // SAFETY: the other threads are those of stillmap.
            unsafe { fork_into(in_child) }.succeed();
        }
    })
    .succeed();
}

#[test]
fn any_number_of_files_is_one_thread() {
    scenario!(|| {
        // The last quarter of the descriptors holds no leases.
        if !may_open(500) {
            return;
        }
        let Some(folder) = Folder::new() else {
            return;
        };
        let bytes = pattern(5, 4 << 20);
        let path = file_with(folder.path(), "file", &bytes);
        let snapshots: Vec<_> = (0..300).map(|_| open(&path)).collect();
        for snapshot in &snapshots {
            snapshot.pages().prefetch(..).expect("prefetch");
            assert!(prefetching() <= 1);
        }
        // In another order than they came.
        for snapshot in snapshots.into_iter().rev().step_by(3) {
            assert_same(&snapshot, &bytes, "the file");
        }
        wait_until_idle();
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
            snapshot.pages().prefetch(..).expect("prefetch");
            std::fs::write(&path, "something else").expect("write");
            assert_ne!(snapshot.backing(), Backing::Leased);
            snapshot.pages().prefetch(..).expect("prefetch");
            assert_same(&snapshot, &bytes, format_args!("round {round}"));
            assert!(snapshot.is_intact());
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
        snapshot.pages().prefetch(..).expect("prefetch");
        wait_until_idle();
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
            snapshot.pages().prefetch(..).expect("prefetch");
            wait_until_idle();
            give_back();
        }
    })
    .succeed();
}

#[test]
fn a_scope_is_refused_while_others_prefetch_all_the_time() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("sparse");
        let file = File::create(&path).expect("create");
        file.set_len(64 << 30).expect("make it long");
        drop(file);
        let snapshot = open(&path);
        // Fewer than may wait: for more there is no thread.
        let ask = || (0..20).for_each(|_| snapshot.pages().prefetch(..).expect("prefetch"));
        let together = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..100 {
                    together.wait();
                    ask();
                }
                together.wait();
            });
            for _ in 0..100 {
                together.wait();
                let refused = stillmap::fork::scope(|_| ());
                assert!(matches!(refused, Err(Error::MultiThreaded { .. })));
            }
            together.wait();
        });
    })
    .succeed();
}
