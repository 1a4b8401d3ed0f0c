//! Many files opened at a time, in order.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

mod support;

use std::path::PathBuf;
use stillmap::{Error, Snapshot};
use support::bytes::{assert_same, pattern};
use support::child::scenario;
use support::kernel::Holdings;
use support::{file_with, kernel, temp_dir};

/// Files of sizes that are read, leased and large; the index is the seed of the bytes.
fn tree(dir: &tempfile::TempDir, count: usize) -> Vec<PathBuf> {
    let sizes = [0, 1, 5_000, 70_000, 5_000, 200_000, 1_500_000];
    let file = |n: usize| {
        let len = sizes[n % sizes.len()];
        file_with(dir.path(), &n.to_string(), &pattern(n as u64, len))
    };
    (0..count).map(file).collect()
}

#[test]
fn every_path_has_its_item_in_order() {
    let dir = temp_dir();
    let mut paths = tree(&dir, 300);
    // Errors stay in their places.
    paths.insert(0, dir.path().join("missing"));
    paths.insert(17, dir.path().to_path_buf());
    paths.push(dir.path().join("missing, too"));
    let all = stillmap::open_all(&paths);
    assert_eq!(all.len(), paths.len());
    // Some are kept while others are opened.
    let mut kept = Vec::new();
    let mut count = 0;
    for (path, item) in paths.iter().zip(all) {
        let expected = std::fs::read(path);
        match (&item, &expected) {
            (Ok(bytes), Ok(expected)) => assert_same(bytes, expected, path.display()),
            (Err(Error::Os { .. } | Error::IsDirectory { .. }), Err(_)) => {}
            other => panic!("{}: {:?}", path.display(), other.0),
        }
        if count % 3 == 0 {
            kept.push((expected, item));
        }
        count += 1;
    }
    assert_eq!(count, paths.len());
    for (expected, item) in kept {
        assert!(expected.ok().as_deref() == item.ok().as_deref());
    }
}

#[test]
fn any_number_of_paths() {
    let dir = temp_dir();
    let paths = tree(&dir, 7);
    for count in [0, 1, 2, 15, 16, 17, 511, 512, 513, 2_000] {
        let paths = paths.iter().cycle().take(count);
        let mut all = stillmap::open_all(paths);
        let mut opened = 0;
        for item in all.by_ref() {
            item.unwrap();
            opened += 1;
        }
        assert_eq!(opened, count);
        assert!(all.next().is_none());
        assert_eq!(all.size_hint(), (0, Some(0)));
    }
}

#[test]
fn options_count_for_each_file() {
    let dir = temp_dir();
    let paths = tree(&dir, 100);
    let options = Snapshot::options().offset(3).len(997);
    for (number, item) in options.open_all(&paths).enumerate() {
        match item {
            Ok(bytes) => assert_same(&bytes, &pattern(number as u64, 1000)[3..], number),
            Err(error) => assert!(matches!(error, Error::OutOfBounds { .. }), "{error}"),
        }
    }
}

/// Case: threads and open files are left behind when it ends, and when it is dropped early.
#[test]
fn threads_and_descriptors_end_with_it() {
    scenario!(|| {
        let dir = temp_dir();
        let paths = tree(&dir, 700);
        // The thread that watches leases stays, and the allocator keeps its arenas.
        stillmap::open_all(&paths).for_each(drop);
        let before = Holdings::now();
        assert_eq!(
            stillmap::open_all(&paths)
                .filter(|item| item.is_ok())
                .count(),
            700
        );
        before.assert_nothing_left("all taken");
        let mut all = stillmap::open_all(&paths);
        all.next().unwrap().unwrap();
        assert!(kernel::threads() > before.threads);
        drop(all);
        before.assert_nothing_left("dropped early");
    })
    .succeed();
}

/// Case: the caller takes no item for a while. No more than the bound is opened.
#[test]
fn it_opens_a_bounded_number_of_bytes_ahead() {
    scenario!(|| {
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", &pattern(1, 1_000_000));
        let before = kernel::status("RssAnon");
        let options = Snapshot::options().lease(false);
        let mut all = options.open_all((0..2_000).map(|_| &path));
        let first = all.next().unwrap().unwrap();
        // Until all threads wait.
        while kernel::state_of("stillmap-open") != Some('S') {
            std::thread::yield_now();
        }
        let grown = kernel::status("RssAnon") - before;
        // 64 MiB, a file for each of 8 threads, and a slab for each.
        assert!(grown < (64 + 8 + 8 * 4 + 8) << 20, "{} MiB", grown >> 20);
        assert_eq!(
            all.filter(|item| item.as_deref().unwrap() == &first[..])
                .count(),
            1_999
        );
    })
    .succeed();
}

/// Case: no thread can be started. The caller opens all.
#[test]
fn it_works_without_threads() {
    scenario!(|| {
        let dir = temp_dir();
        let paths = tree(&dir, 70);
        let addresses = kernel::status("VmSize") as u64;
        // No room for a stack, nor for a slab.
        let before = kernel::limit(libc::RLIMIT_AS, addresses + (1 << 20));
        let mut all = stillmap::open_all(&paths);
        assert!(all.next().unwrap().is_ok());
        assert_eq!(kernel::threads(), 1);
        kernel::limit(libc::RLIMIT_AS, before);
        assert_eq!(all.filter(|item| item.is_ok()).count(), 69);
    })
    .succeed();
}

#[test]
fn it_moves_to_other_threads() {
    fn is_send<T: Send>(_: &T) {}
    let all = stillmap::open_all(["Cargo.toml"; 40]);
    is_send(&all);
    let count = std::thread::spawn(move || all.filter(|item| item.is_ok()).count());
    assert_eq!(count.join().unwrap(), 40);
}

/// Case: the iterator over the paths uses the crate itself, and opens what takes locks of its own.
#[test]
fn the_paths_may_be_made_by_opening_files() {
    let dir = temp_dir();
    let paths = tree(&dir, 40);
    let opened_before = paths.iter().filter(|path| Snapshot::open(path).is_ok());
    let opened = stillmap::open_all(opened_before).filter(|item| item.is_ok());
    assert_eq!(opened.count(), 40);
}
