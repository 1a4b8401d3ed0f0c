//! A device that fails under a mapped file: an error wherever stillmap asks for the pages, and the kernel's SIGBUS where the
//! program touches them.

use crate::residency::evict;
use crate::support::bytes::pattern;
use crate::support::child::scenario;
use crate::support::disk::LoopFs;
use crate::support::kernel::can_populate;
use crate::support::{file_with, skip};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicU8;
use stillmap::{Backing, Error, Shared, Snapshot};

const LEN: usize = 4 << 20;

/// A file that cannot be read any more, on a device that has failed since it was created.
fn unreadable() -> Option<(LoopFs, PathBuf)> {
    let disk = LoopFs::new("ext4", 16 << 20)?;
    let path = file_with(disk.path(), "file", &pattern(1, LEN));
    evict(&File::open(&path).expect("open"));
    let other = file_with(disk.path(), "other", b"bytes");
    evict(&File::open(&other).expect("open"));
    disk.fail();
    if std::fs::read(other).is_ok() {
        skip("a loop device reads zeros beyond the end of its file");
        return None;
    }
    Some((disk, path))
}

#[track_caller]
fn assert_faulted(error: Error) {
    assert!(matches!(error, Error::PagesLost { .. }), "{error:?}");
}

#[test]
fn asking_for_the_pages_is_an_error() {
    if !can_populate() {
        return;
    }
    scenario!(|| {
        let Some((_disk, path)) = unreadable() else {
            return;
        };
        let snapshot = stillmap::Snapshot::open(&path).expect("nothing is read yet");
        assert_eq!(snapshot.backing(), Backing::Leased);
        assert_faulted(snapshot.pages().populate(..).expect_err("populate"));
        assert_faulted(snapshot.pages().lock(..).expect_err("lock"));
        drop(snapshot.pages().prefetch(..).expect("it only asks"));
        drop(snapshot);

        let populated = Snapshot::options().populate(true).open(&path);
        let error = populated.expect_err("populate(true)");
        let text = error.to_string();
        assert!(text.contains(path.to_str().expect("UTF-8")), "{text}");
        assert_faulted(error);

        // It is read, not mapped.
        let copied = Snapshot::options().lease(false).open(&path);
        let error = copied.expect_err("a copy");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error:?}");

        // Answered for: no signal here.
        let shared = Shared::<[AtomicU8]>::open_slice(&path).expect("open");
        assert_faulted(shared.pages().populate(..).expect_err("populate"));
        assert_faulted(shared.read_at(0, &mut [0; 8]).expect_err("read_at"));
        assert_faulted(shared.check_fault().expect_err("check"));
    })
    .succeed();
}

#[test]
fn touching_the_pages_of_a_snapshot_is_the_kernels_signal() {
    let outcome = scenario!(|| {
        let Some((_disk, path)) = unreadable() else {
            std::process::exit(77);
        };
        let snapshot = stillmap::Snapshot::open(&path).expect("nothing is read yet");
        std::process::exit(i32::from(snapshot[0]));
    })
    .run();
    match outcome.status.code() {
        Some(77) => skip("no device to fail here"),
        _ => assert_eq!(outcome.signal(), Some(libc::SIGBUS), "{outcome:?}"),
    }
}
