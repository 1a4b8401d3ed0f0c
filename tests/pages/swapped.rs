//! A writer comes during every page operation on a leased snapshot: its pages are replaced meanwhile.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::file_with;
use crate::support::kernel::status;
use crate::support::leased::Folder;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use stillmap::{Advice, Backing, Snapshot};

#[test]
fn nothing_is_lost_but_advice() {
    if !crate::support::kernel::may_lock() {
        return;
    }
    scenario!(|| {
        let bytes = pattern(1, 3 << 20);
        let Some(folder) = Folder::new() else {
            return;
        };
        for round in 0..20 {
            let path = file_with(folder.path(), "file", &bytes);
            let snapshot = stillmap::Snapshot::open(&path).expect("open");
            assert_eq!(snapshot.backing(), Backing::Leased);
            let (start, done) = (Barrier::new(3), AtomicBool::new(false));
            std::thread::scope(|scope| {
                scope.spawn(|| until(&done, &start, || ask(&snapshot)));
                scope.spawn(|| until(&done, &start, || hold(&snapshot)));
                start.wait();
                // Returns when the bytes are elsewhere.
                std::fs::write(&path, "something else").expect("write");
                done.store(true, Ordering::Release);
            });
            assert_ne!(snapshot.backing(), Backing::Leased);
            assert_same(&snapshot, &bytes, format_args!("round {round}"));
            assert_eq!(status("VmLck"), 0, "round {round}");
            assert!(
                snapshot
                    .pages()
                    .residency(..)
                    .expect("residency")
                    .is_reliable()
            );
        }
    })
    .succeed();
}

/// Again and again, and once more after `done`.
fn until(done: &AtomicBool, start: &Barrier, mut work: impl FnMut()) {
    start.wait();
    while !done.load(Ordering::Acquire) {
        work();
    }
    work();
}

fn ask(snapshot: &Snapshot) {
    for advice in [Advice::Random, Advice::WillNeed, Advice::DontDump] {
        snapshot.pages().advise(1..2 << 20, advice).expect("advise");
    }
    let _prefetch = snapshot.pages().prefetch(..).expect("prefetch");
    snapshot.pages().populate(..).expect("populate");
    snapshot.pages().residency(..).expect("residency");
    snapshot.pages().huge_bytes().expect("huge bytes");
}

fn hold(snapshot: &Snapshot) {
    let all = snapshot.pages().lock(..).expect("lock");
    let part = snapshot.pages().lock(5000..1 << 20).expect("lock a part");
    drop(all);
    drop(part);
}
