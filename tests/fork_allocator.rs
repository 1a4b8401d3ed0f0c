//! Forking with a global allocator without fork handlers: a lock that another thread holds at the fork stays locked in the
//! child. No thread of the crate allocates while the process forks.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use stillmap::{Backing, Snapshot, fork};
use support::child::scenario;
use support::leased::Folder;
use support::pipe::pipe;

struct SpinLocked(AtomicBool);

#[global_allocator]
static ALLOCATOR: SpinLocked = SpinLocked(AtomicBool::new(false));

impl SpinLocked {
    fn locked<T>(&self, f: impl FnOnce() -> T) -> T {
        while self.0.swap(true, Ordering::Acquire) {
            std::thread::yield_now();
        }
        // Long enough that a fork often finds it locked.
        let value = f();
        (0..200).for_each(|turn| _ = std::hint::black_box(turn));
        self.0.store(false, Ordering::Release);
        value
    }
}

// SAFETY: forwards to `System`.
unsafe impl GlobalAlloc for SpinLocked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.locked(|| unsafe { System.alloc(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        self.locked(|| unsafe { System.dealloc(block, layout) });
    }
}

/// Hung after 40 to 526 forks where the thread that watched leases allocated.
#[test]
fn children_can_allocate_while_leases_are_broken() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let paths: Vec<_> = (0..20)
            .map(|n| support::file_with(folder.path(), &format!("file {n}"), &[7; 4 << 20]))
            .collect();
        let leased: Vec<_> = paths
            .iter()
            .map(|path| Snapshot::open(path).unwrap())
            .collect();
        assert!(
            leased
                .iter()
                .all(|leased| leased.backing() == Backing::Leased)
        );
        let (mut done, hold) = pipe_files();
        fork::scope(|s| {
            // Breaks one lease after another.
            s.spawn(move || {
                let mut hold = hold;
                for path in &paths {
                    File::options().append(true).open(path).unwrap();
                    hold.write_all(b".").unwrap();
                }
            })
            .unwrap();
            // Until the writer has ended.
            while done.read(&mut [0]).unwrap() > 0 {
                for _ in 0..5 {
                    s.spawn(|| drop(vec![1; 100])).unwrap().wait().unwrap();
                }
            }
        })
        .unwrap();
        assert!(leased.iter().all(|leased| leased[4096] == 7));
    })
    .succeed();
}

fn pipe_files() -> (File, File) {
    let (end, hold) = pipe();
    (File::from(end), File::from(hold))
}
