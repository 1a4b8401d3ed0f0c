//! A window of a file, and address space for one that becomes longer.

use crate::support::child::scenario;
use crate::support::disk::free;
use crate::support::exclusive::systems;
use crate::support::{file_with, temp_dir};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use stillmap::{Error, Exclusive, ExclusiveOptions};

/// Opens until no other process has it.
fn open(options: &ExclusiveOptions, path: &Path) -> stillmap::Result<Exclusive> {
    loop {
        match options.open(path) {
            Err(Error::Busy { .. }) => {}
            other => return other,
        }
    }
}

/// 5,432 bytes at 4 GiB of a sparse file took 4,096 MiB of blocks.
#[test]
fn a_window_of_a_sparse_file_takes_blocks_for_the_window_alone() {
    const AT: u64 = (4 << 30) + 1234;
    for (kind, system) in systems() {
        let path = system.path().join("sparse");
        File::create(&path).unwrap().set_len(8 << 30).unwrap();
        let options = Exclusive::options().offset(AT).len(5432);
        let mut window = open(&options, &path).unwrap();
        assert_eq!(window[..], [0; 5432], "{kind}");
        window.fill(7);
        window.start_writeback(1000..).unwrap();
        window.flush_range(5000..5001).unwrap();
        let blocks = fs::metadata(&path).unwrap().blocks() * 512;
        assert!((5432..=64 << 10).contains(&blocks), "{kind}: {blocks}");
        let error = window.resize(10).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains("sparse"), "{error}");
        window.close().unwrap();
        let file = File::open(&path).unwrap();
        let mut bytes = [1; 5434];
        file.read_exact_at(&mut bytes, AT - 1).unwrap();
        assert_eq!(bytes[1..5433], [7; 5432], "{kind}");
        assert_eq!((bytes[0], bytes[5433]), (0, 0), "{kind}");
        assert_eq!(file.metadata().unwrap().len(), 8 << 30, "{kind}");
        drop(file);
        let outside = options.offset((8 << 30) - 10).len(11);
        let error = open(&outside, &path).unwrap_err();
        assert!(matches!(error, Error::OutOfBounds { .. }), "{error}");
        assert_eq!(fs::metadata(&path).unwrap().blocks() * 512, blocks);
    }
}

#[test]
fn a_window_that_does_not_fit_on_the_disk_takes_nothing() {
    for (kind, system) in systems() {
        let path = system.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 30).unwrap();
        file.write_all_at(b"data", (1 << 30) + 100_000).unwrap();
        file.sync_all().unwrap();
        let (before, blocks) = (free(system.path()), file.metadata().unwrap().blocks());
        drop(file);
        let options = Exclusive::options().offset((1 << 30) + 5);
        let options = options.len(before as usize + (64 << 10));
        let error = open(&options, &path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{kind}: {error}");
        assert_eq!(free(system.path()), before, "{kind}");
        assert_eq!(fs::metadata(&path).unwrap().blocks(), blocks, "{kind}");
    }
}

/// A window up to the end of the file makes the file longer and shorter; what is before it stays.
fn grow_and_shrink(mut window: Exclusive, path: &Path, offset: usize) {
    let start = window.as_ptr();
    let mut model = vec![1; 10_000];
    for (round, len) in [20_000, 3, 0, 900_000, 1 << 20, 50].into_iter().enumerate() {
        let old = window.len();
        window.resize(len).unwrap();
        assert_eq!(window.as_ptr(), start, "it moved at {len}");
        if len > old {
            assert!(window[old..].iter().all(|&byte| byte == 0));
            window[old..].fill(round as u8 + 2);
        }
        model.resize(offset + old.min(len), 0);
        model.resize(offset + len, round as u8 + 2);
        assert!(window[..] == model[offset..], "{len}");
    }
    // Longer than what is reserved: it may move.
    window.resize(3 << 20).unwrap();
    window.resize(10).unwrap();
    window.close().unwrap();
    model.truncate(offset + 10);
    assert!(fs::read(path).unwrap() == model);
}

#[test]
fn it_grows_into_reserved_addresses_without_moving() {
    scenario!(|| {
        for (_, system) in systems() {
            for offset in [0, 1, 4096, 9_999] {
                let path = file_with(system.path(), "file", &[1; 10_000]);
                let blocks = || fs::metadata(&path).unwrap().blocks();
                let before = blocks();
                let options = Exclusive::options().offset(offset).reserve(1 << 20);
                let window = open(&options, &path).unwrap();
                assert_eq!(window.len() as u64, 10_000 - offset);
                assert_eq!(blocks(), before, "addresses take no space");
                grow_and_shrink(window, &path, offset as usize);
            }
        }
    })
    .succeed();
}

#[test]
fn nothing_guards_a_window_on_the_callers_word() {
    let dir = temp_dir();
    for offset in [0, 1, 4096, 9_999] {
        let path = file_with(dir.path(), "file", &[1; 10_000]);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let options = Exclusive::options().offset(offset).reserve(1 << 20);
        // SAFETY: this test alone knows the file.
        let window = unsafe { options.map_unguarded(&file) }.unwrap();
        grow_and_shrink(window, &path, offset as usize);
    }
}
