//! Which pages are in RAM, against cachestat(2) of the file, which knows nothing of mappings.

use crate::kinds::{self, Deed};
use crate::support::bytes::pattern;
use crate::support::child::{argument, scenario};
use crate::support::kernel::{
    can_populate, file_system, limit, mapping_at, page_size, resident_pages, status,
};
use crate::support::leased::{Folder, leased};
use crate::support::random::runner;
use crate::support::refuse::refuse;
use crate::support::user::{become_nobody, may_be_others};
use crate::support::{file_with, skip, temp_dir};
use proptest::prelude::*;
use std::cell::Cell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use stillmap::{Advice, Anonymous, Backing, Pages, Snapshot};

const PAGES: usize = 400;

/// Which pages of a file are in RAM, one system call for each; `None` before Linux 6.5, and on overlayfs.
pub fn cached(file: &File, pages: usize) -> Option<Vec<bool>> {
    // The pages are those of another file, below, and cachestat(2) does not look there.
    if file_system(file) == libc::OVERLAYFS_SUPER_MAGIC as u64 {
        return None;
    }
    const CACHESTAT: libc::c_long = 451;
    let page = page_size() as u64;
    (0..pages as u64)
        .map(|number| {
            let range = [number * page, page];
            let mut counts = [0_u64; 5];
            // SAFETY: the kernel reads two numbers and writes five.
            let done = unsafe {
                libc::syscall(
                    CACHESTAT,
                    file.as_raw_fd(),
                    range.as_ptr(),
                    counts.as_mut_ptr(),
                    0,
                )
            };
            (done == 0).then_some(counts[0] == 1)
        })
        .collect()
}

/// Out of RAM, as far as the kernel follows; then no readahead.
pub fn evict(file: &File) {
    file.sync_all().expect("write it back");
    for advice in [libc::POSIX_FADV_DONTNEED, libc::POSIX_FADV_RANDOM] {
        // SAFETY: takes numbers.
        assert_eq!(
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) },
            0
        );
    }
}

fn touch(file: &File, page: usize) {
    let mut byte = [0];
    let offset = (page * page_size()) as u64;
    file.read_exact_at(&mut byte, offset).expect("read a byte");
}

/// The pages that are reported as resident, by each method.
fn said(of: Pages<'_>, pages: usize) -> Vec<bool> {
    let page = page_size();
    let residency = of.residency(..).expect("residency");
    assert!(residency.is_reliable());
    assert_eq!(residency.pages(), pages);
    let said: Vec<bool> = (0..pages)
        .map(|n| residency.is_resident(n * page))
        .collect();
    assert_eq!(
        residency.resident_pages(),
        said.iter().filter(|&&page| page).count()
    );
    let mut from_ranges = vec![false; pages];
    for range in residency.resident_ranges() {
        from_ranges[range.start / page..range.end.div_ceil(page)].fill(true);
    }
    assert_eq!(from_ranges, said);
    said
}

#[test]
fn it_is_what_the_kernel_says_of_the_file() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", &pattern(1, PAGES * page_size()));
    let file = File::open(&path).expect("open");
    if cached(&file, 1).is_none() {
        return skip("cachestat(2) is not there");
    }
    // SAFETY: no other code knows the file.
    let snapshot = unsafe { Snapshot::map_unguarded(&file) }.expect("map");
    assert_eq!(snapshot.backing(), Backing::Unguarded);
    let partial = Cell::new(0);
    let pages = proptest::collection::vec(0..PAGES, 0..30);
    let done = runner(30).run(&pages, |pages| {
        evict(&file);
        pages.iter().for_each(|&page| touch(&file, page));
        let truth = cached(&file, PAGES).expect("cachestat");
        let said = said(snapshot.pages(), PAGES);
        prop_assert_eq!(&said, &truth);
        prop_assert!(pages.iter().all(|&page| said[page]));
        partial.set(partial.get() + usize::from(said.contains(&false) && said.contains(&true)));
        Ok(())
    });
    done.expect("all cases");
    if partial.get() == 0 {
        skip("this file system evicts nothing, so only full files were seen");
    }
}

#[test]
fn a_window_under_a_lease_counts_from_its_own_first_byte() {
    let page = page_size();
    let Some(folder) = Folder::new() else {
        return;
    };
    let path = file_with(folder.path(), "file", &pattern(2, PAGES * page));
    let file = File::open(&path).expect("open");
    let (offset, len) = (5 * page + 100, 100 * page);
    let options = || Snapshot::options().offset(offset as u64).len(len);
    let window = leased(|| options().copy_limit(0).open(&path));
    evict(&file);
    for page in [0, 5, 60, 105, 106] {
        touch(&file, page);
    }
    let Some(truth) = cached(&file, PAGES) else {
        return skip("cachestat(2) is not there");
    };
    let residency = window.pages().residency(..).expect("residency");
    assert_eq!(residency.pages(), 101, "100 bytes into a page, so one more");
    for byte in [
        0,
        page - 101,
        page - 100,
        55 * page,
        len - 101,
        len - 100,
        len - 1,
    ] {
        let page = (offset + byte) / page;
        assert_eq!(residency.is_resident(byte), truth[page], "byte {byte}");
    }
    assert!(!residency.is_resident(len), "past the end");
}

#[test]
fn memory_is_there_once_it_is_touched() {
    let page = page_size();
    let mut memory = Anonymous::options()
        .huge_pages(stillmap::HugePages::Never)
        .allocate(1 << 30)
        .expect("address space");
    assert_eq!(
        memory
            .pages()
            .residency(..)
            .expect("residency")
            .resident_pages(),
        0
    );
    let touched = [0, 1, 63, 64, 65, 1000, 10_000, (1 << 30) / page - 1];
    for n in touched {
        memory[n * page] = 1;
    }
    let residency = memory.pages().residency(..).expect("residency");
    assert_eq!(residency.resident_pages(), touched.len());
    assert!(touched.iter().all(|&n| residency.is_resident(n * page)));
    let ranges: Vec<_> = residency
        .resident_ranges()
        .map(|r| r.start / page..r.end / page)
        .collect();
    let last = *touched.last().expect("some");
    assert_eq!(
        ranges,
        [0..2, 63..66, 1000..1001, 10_000..10_001, last..last + 1]
    );
    memory.discard(..).expect("discard");
    assert_eq!(
        memory
            .pages()
            .residency(..)
            .expect("residency")
            .resident_bytes(),
        0
    );
}

#[test]
fn a_range_is_asked_about_alone_and_counts_bytes_of_the_value() {
    let page = page_size();
    let mut memory = Anonymous::options()
        .huge_pages(stillmap::HugePages::Never)
        .allocate(5000 * page)
        .expect("address space");
    for n in [1, 2, 7, 4000] {
        memory[n * page] = 1;
    }
    let pages = memory.pages();
    let part = pages
        .residency(2 * page + 100..8 * page)
        .expect("residency");
    assert_eq!((part.pages(), part.resident_pages()), (6, 2));
    let ranges: Vec<_> = part.resident_ranges().collect();
    assert_eq!(ranges, [2 * page + 100..3 * page, 7 * page..8 * page]);
    assert_eq!(part.resident_bytes(), 2 * page - 100);
    assert!(part.is_resident(7 * page) && !part.is_resident(page));
    for (range, resident) in [
        (page..3 * page, true),
        (page + 1..page + 2, true),
        (page - 1..page + 1, false),
        (4000 * page..4001 * page, true),
        (4000 * page..4002 * page, false),
        (0..0, true),
    ] {
        let found = pages.is_resident(range.clone()).expect("in bounds");
        assert_eq!(found, resident, "{range:?}");
    }
    if can_populate() {
        pages.populate(..).expect("populate");
        assert!(
            pages.is_resident(..).expect("in bounds"),
            "more than one mincore(2)"
        );
        assert!(pages.is_resident(5000 * page - 1..).expect("in bounds"));
    }
    assert!(pages.is_resident(..5000 * page + 1).is_err());
    assert!(pages.residency(5000 * page + 1..).is_err());
}

#[test]
fn it_is_not_known_where_a_filter_refuses_mincore() {
    scenario!(|| {
        let memory = Anonymous::options()
            .populate(true)
            .allocate(10 * page_size())
            .expect("memory");
        refuse(libc::SYS_mincore, libc::EPERM);
        let residency = memory.pages().residency(..).expect("no error");
        assert!(!residency.is_reliable());
        assert_eq!((residency.pages(), residency.resident_pages()), (10, 0));
        assert!(!residency.is_full());
        assert!(!memory.pages().is_resident(..).expect("in bounds"));
    })
    .succeed();
}

/// A bit for each page of a large mapping. Before: the process ended (SIGABRT).
#[test]
#[cfg(target_pointer_width = "64")]
fn where_there_is_no_memory_for_the_answer_it_is_an_error() {
    scenario!(|| {
        let memory = Anonymous::shared(page_size() << 30).expect("addresses");
        limit(libc::RLIMIT_AS, (status("VmSize") + (32 << 20)) as u64);
        let error = memory.pages().residency(..).expect_err("128 MiB");
        assert_eq!(error.kind(), std::io::ErrorKind::OutOfMemory, "{error}");
    })
    .succeed();
}

pub struct Look;

impl Deed for Look {
    fn on(&mut self, name: &str, pages: Pages<'_>, bytes: &[u8], _: bool) {
        let residency = pages
            .residency(..)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        // A private mapping of a file that is all in RAM: the kernel cannot be tried out there. Before Linux 6.7 that of a
        // sealed memfd may be private, too.
        if !residency.is_reliable() {
            let area = mapping_at(bytes.as_ptr() as usize).expect("mapped");
            let is_sealed = name.contains("sealed") && area.permissions.ends_with('p');
            assert!(name.ends_with("to change") || is_sealed, "{name}");
            assert_eq!(residency.resident_bytes(), 0, "{name}");
            return;
        }
        let page = page_size();
        let first = bytes.as_ptr() as usize % page;
        assert_eq!(
            residency.pages(),
            match bytes.len() {
                0 => 0,
                len => (first + len).div_ceil(page),
            }
        );
        let mut in_ram = 0;
        for number in 0..residency.pages() {
            let start = (number * page).saturating_sub(first);
            let bytes = &bytes[start..bytes.len().min((number + 1) * page - first)];
            let truth = resident_pages(bytes) == 1;
            assert_eq!(residency.is_resident(start), truth, "{name}: page {number}");
            in_ram += if truth { bytes.len() } else { 0 };
        }
        assert_eq!(residency.resident_bytes(), in_ram, "{name}");
    }
}

#[test]
fn it_is_what_the_kernel_says_of_each_page_of_every_type() {
    kinds::each(&mut Look);
}

#[test]
fn the_heap_is_seen_too() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "small", &pattern(3, 100_000));
    let small = stillmap::Snapshot::open(path).expect("read");
    assert_eq!(small.backing(), Backing::Memory);
    let residency = small.pages().residency(..).expect("residency");
    assert!(residency.is_full() && residency.is_reliable());
    assert_eq!(residency.resident_bytes(), small.len());
    assert_eq!(residency.pages(), resident_pages(&small));
}

#[test]
fn page_out_empties_a_file() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", &pattern(4, PAGES * page_size()));
    let file = File::open(&path).expect("open");
    file.sync_all().expect("write it back");
    // SAFETY: no other code knows the file.
    let snapshot = unsafe { Snapshot::map_unguarded(&file) }.expect("map");
    snapshot.pages().populate(..).expect("populate");
    snapshot
        .pages()
        .advise(.., Advice::PageOut)
        .expect("page out");
    let Some(truth) = cached(&file, PAGES) else {
        return skip("cachestat(2) is not there");
    };
    assert_eq!(said(snapshot.pages(), PAGES), truth);
    if truth.iter().all(|&page| page) {
        skip("this file system keeps its pages");
    }
}

#[test]
fn a_file_of_others_is_not_told() {
    if !may_be_others() {
        return;
    }
    let dir = temp_dir();
    let path = file_with(dir.path(), "theirs", &pattern(5, PAGES * page_size()));
    scenario!(|| {
        let path = argument("FILE");
        let path = Path::new(&path);
        let file = File::open(path).expect("open");
        // SAFETY: no process changes the file.
        let map = || unsafe { Snapshot::map_unguarded(&file) }.expect("map");
        evict(&file);
        let ours = map().pages().residency(..).expect("residency");
        assert!(ours.is_reliable());
        if ours.is_full() {
            return skip("this file system evicts nothing");
        }
        become_nobody();
        let theirs = map().pages().residency(..).expect("residency");
        assert!(!theirs.is_reliable());
        assert_eq!(theirs.resident_pages(), 0, "{theirs}");
        assert!(!map().pages().is_resident(..).expect("in bounds"));
        assert_eq!(format!("{theirs:10}"), "??????????");
        // For our own memory the answer is as before.
        let memory = Anonymous::new(page_size()).expect("memory");
        memory.pages().populate(..).expect("populate");
        assert!(
            memory
                .pages()
                .residency(..)
                .expect("residency")
                .is_reliable()
        );
    })
    .argument("FILE", &path)
    .succeed();
}

#[test]
fn a_full_file_of_our_own_is_told() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "ours", &pattern(6, PAGES * page_size()));
    let file = File::open(path).expect("open");
    // SAFETY: no other code knows the file.
    let snapshot = unsafe { Snapshot::map_unguarded(&file) }.expect("map");
    snapshot.pages().populate(..).expect("populate");
    let residency = snapshot.pages().residency(..).expect("residency");
    assert!(residency.is_full() && residency.is_reliable());
}

#[test]
fn a_full_file_of_our_own_is_told_where_addresses_are_few() {
    scenario!(|| {
        limit(libc::RLIMIT_AS, (status("VmSize") + (2 << 30)) as u64);
        a_full_file_of_our_own_is_told();
    })
    .succeed();
}
