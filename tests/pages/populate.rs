//! Faulting pages in: all of the range, or an error instead of a signal.

use crate::kinds::{self, Deed};
use crate::residency::{cached, evict};
use crate::support::bytes::{assert_same, pattern};
use crate::support::kernel::{page_size, present_pages};
use crate::support::{file_with, skip, temp_dir};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::atomic::AtomicU8;
use stillmap::{Advice, Anonymous, Error, Pages, Shared, Snapshot};

pub struct Populate;

impl Deed for Populate {
    fn on(&mut self, name: &str, pages: Pages<'_>, bytes: &[u8], _: bool) {
        pages.populate(..).unwrap_or_else(|e| panic!("{name}: {e}"));
        let residency = pages.residency(..).expect("residency");
        if residency.is_reliable() {
            assert!(residency.is_full(), "{name}: {residency}");
            assert_eq!(residency.resident_bytes(), bytes.len(), "{name}");
        }
        // Not only in RAM, but mapped: touching it cannot fault.
        assert_eq!(present_pages(bytes), residency.pages(), "{name}");
    }
}

#[test]
fn everything_is_there_afterwards_on_every_type() {
    if !crate::support::kernel::can_populate() {
        return;
    }
    kinds::each(&mut Populate);
}

#[test]
fn of_a_part_the_rest_is_left() {
    if !crate::support::kernel::can_populate() {
        return;
    }
    let page = page_size();
    let memory = Anonymous::options()
        .huge_pages(stillmap::HugePages::Never)
        .allocate(64 << 20)
        .expect("memory");
    // More than one step, and both ends inside a page.
    let range = 5 * page + 1..(40 << 20) + 1;
    memory.pages().populate(range.clone()).expect("populate");
    let residency = memory.pages().residency(..).expect("residency");
    let mut ranges = residency.resident_ranges();
    assert_eq!(ranges.next(), Some(5 * page..(40 << 20) + page));
    assert_eq!(ranges.next(), None);
    assert!(memory.iter().all(|&byte| byte == 0));
}

#[test]
fn a_cold_file_is_read_and_not_changed() {
    if !crate::support::kernel::can_populate() {
        return;
    }
    let bytes = pattern(1, 300 * page_size());
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", &bytes);
    let file = File::open(&path).expect("open");
    evict(&file);
    let Ok(snapshot) = Snapshot::options().require_mapping(true).open(&path) else {
        return skip("no lease here");
    };
    let before = std::fs::metadata(&path)
        .expect("stat")
        .modified()
        .expect("mtime");
    snapshot.pages().populate(..).expect("populate");
    if let Some(cached) = cached(&file, 300) {
        assert!(cached.iter().all(|&page| page));
    }
    assert_same(&snapshot, &bytes, "the file");
    let after = std::fs::metadata(&path)
        .expect("stat")
        .modified()
        .expect("mtime");
    assert_eq!(before, after);
}

#[test]
fn prefetch_brings_all_of_a_cold_range_in() {
    // More than any device reads ahead.
    let pages = (32 << 20) / page_size();
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", &pattern(2, pages * page_size()));
    let file = File::open(&path).expect("open");
    // SAFETY: no other code knows the file.
    let snapshot = unsafe { Snapshot::map_unguarded(&file) }.expect("map");
    let in_ram = || cached(&file, pages);
    let to_start = 10;
    let to_end = pages - pages / 4;
    for advise in [false, true] {
        evict(&file);
        if in_ram().is_none_or(|cached| cached.iter().all(|&page| page)) {
            return skip("no page can be evicted here, or its residency is not known");
        }
        let range = to_start * page_size() + 1..to_end * page_size() - 1;
        let pages = snapshot.pages();
        if advise {
            pages.advise(range, Advice::WillNeed).expect("advise");
        } else {
            drop(pages.prefetch(range).expect("prefetch"));
        }
        // The pages are entered at once and filled later, so there is nothing to wait for.
        let cached = in_ram().expect("cachestat");
        assert!(cached[to_start..to_end].iter().all(|&page| page));
        // A page-cache folio may reach a little further.
        assert!(cached[to_end + 1024..].iter().all(|&page| !page));
    }
}

/// A file under an unguarded map, cut to half.
fn truncated(dir: &Path) -> Snapshot {
    let path = file_with(dir, "file", &pattern(3, 100 * page_size()));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    // SAFETY: it is broken on purpose, and no byte is looked at.
    let snapshot = unsafe { Snapshot::map_unguarded(&file) }.expect("map");
    file.set_len(50 * page_size() as u64).expect("truncate");
    snapshot
}

#[test]
fn a_file_that_lost_pages_is_an_error_and_no_signal() {
    if !crate::support::kernel::can_populate() {
        return;
    }
    let dir = temp_dir();
    let snapshot = truncated(dir.path());
    let page = page_size();
    snapshot
        .pages()
        .populate(..50 * page)
        .expect("what is left");
    for range in [
        49 * page..51 * page,
        50 * page..50 * page + 1,
        0..100 * page,
    ] {
        let error = snapshot
            .pages()
            .populate(range.clone())
            .expect_err("pages are gone");
        assert!(
            matches!(error, Error::PagesLost { .. }),
            "{range:?}: {error:?}"
        );
    }
    let error = snapshot.pages().lock(..).expect_err("pages are gone");
    assert!(matches!(error, Error::PagesLost { .. }), "{error:?}");
    // These only ask.
    let _prefetch = snapshot.pages().prefetch(..).expect("prefetch");
    assert!(!snapshot.pages().residency(..).expect("residency").is_full());
    assert_eq!(snapshot.pages().huge_bytes().expect("huge bytes"), 0);
}

#[test]
fn a_shared_file_that_lost_pages_is_an_error_and_no_signal() {
    if !crate::support::kernel::can_populate() {
        return;
    }
    let page = page_size();
    let dir = temp_dir();
    let path = dir.path().join("shared");
    let shared = Shared::<[AtomicU8]>::create_slice(&path, 100 * page).expect("a shared file");
    let file = OpenOptions::new().write(true).open(&path).expect("open");
    file.set_len(50 * page as u64).expect("truncate");
    shared.pages().populate(..50 * page).expect("what is left");
    let error = shared.pages().populate(..).expect_err("pages are gone");
    assert!(matches!(error, Error::PagesLost { .. }), "{error:?}");
    assert!(
        error.to_string().contains("shared"),
        "names the file: {error}"
    );
}
