//! RAM is allocated at the first touch and freed at once; all numbers come from the kernel.

use crate::both_kinds;
use crate::support::bytes::assert_same;
use crate::support::child::scenario;
use crate::support::kernel::{
    Holdings, mappings, may_write, minor_faults, page_size, present_pages_do_not_fault,
    resident_pages, smaps, status,
};
use stillmap::{Anonymous, HugePages};

const GIB: usize = 1 << 30;

fn range_of(bytes: &[u8]) -> std::ops::Range<usize> {
    let start = bytes.as_ptr() as usize;
    start..start + bytes.len()
}

#[test]
fn a_gibibyte_takes_nothing_until_it_is_touched() {
    if !may_write(GIB as u64) {
        return;
    }
    // In a process of its own: the kernel merges areas, and smaps counts whole ones.
    scenario!(|| {
        for options in both_kinds() {
            for huge in [HugePages::System, HugePages::Never, HugePages::Transparent] {
                let memory = options.huge_pages(huge).allocate(GIB).unwrap();
                assert!(resident_pages(&memory) <= 4, "{huge:?}");
                assert!(smaps(range_of(&memory), "Rss") <= 64 << 10, "{huge:?}");
            }
        }
    })
    .succeed();
}

#[test]
fn one_byte_grants_one_page() {
    if !may_write(GIB as u64) {
        return;
    }
    let page = page_size();
    for options in both_kinds() {
        let mut memory = options.huge_pages(HugePages::Never).allocate(GIB).unwrap();
        let touched = [0, 1, 5 * page, GIB / 2 + 17, GIB - 1];
        for (n, at) in touched.into_iter().enumerate() {
            memory[at] = 1;
            // 0 and 1 are on one page.
            assert_eq!(resident_pages(&memory), n.max(1), "after {at}");
        }
    }
}

#[test]
fn each_page_costs_one_fault_and_no_page_two() {
    let page = page_size();
    let mut memory = Anonymous::options()
        .huge_pages(HugePages::Never)
        .allocate(64 * page)
        .unwrap();
    let faults = |memory: &mut Anonymous| {
        let before = minor_faults();
        for byte in memory.iter_mut().step_by(page) {
            *byte = 1;
        }
        minor_faults() - before
    };
    let first = faults(&mut memory);
    assert!((64..70).contains(&first), "{first} faults for 64 pages");
    let second = faults(&mut memory);
    assert!(second < 6, "{second} faults for pages that are there");
    memory.discard(..).unwrap();
    let third = faults(&mut memory);
    assert!(
        (64..70).contains(&third),
        "{third} faults for 64 discarded pages"
    );
}

#[test]
fn populate_grants_everything_at_once() {
    let counted = present_pages_do_not_fault();
    for options in both_kinds() {
        for huge in [HugePages::System, HugePages::Never, HugePages::Transparent] {
            let len = (8 << 20) + 100;
            let options = options.huge_pages(huge).populate(true);
            let mut memory = options.allocate(len).unwrap();
            assert_eq!(resident_pages(&memory), len.div_ceil(page_size()));
            let before = minor_faults();
            for byte in memory.iter_mut().step_by(512) {
                *byte = 1;
            }
            assert!(!counted || minor_faults() - before < 8, "{huge:?}");
        }
    }
}

#[test]
fn discarding_gives_ram_back_at_once() {
    // In a process of its own: the kernel merges areas, and smaps counts whole ones.
    scenario!(|| {
        let page = page_size();
        for options in both_kinds() {
            for huge in [HugePages::System, HugePages::Never, HugePages::Transparent] {
                let pages = 1024;
                let options = options.huge_pages(huge);
                let mut memory = options.allocate(pages * page).unwrap();
                memory.fill(7);
                assert_eq!(resident_pages(&memory), pages);
                // Pages 0 and 10 keep some of their bytes, so they stay.
                memory.discard(1..10 * page + 1).unwrap();
                let left = resident_pages(&memory);
                assert_eq!(left, pages - 9, "{huge:?}");
                assert_same(&memory[..1], &[7], "before");
                assert_same(&memory[1..10 * page + 1], &vec![0; 10 * page], "discarded");
                let behind = &memory[10 * page + 1..];
                assert_same(behind, &vec![7; behind.len()], "behind");

                memory.discard(..).unwrap();
                assert_eq!(resident_pages(&memory), 0, "{huge:?}");
                assert_eq!(smaps(range_of(&memory), "Rss"), 0, "{huge:?}");
                assert_same(&memory, &vec![0; pages * page], "all");
            }
        }
    })
    .succeed();
}

/// The end of a length that is not a multiple of a page: its last page is freed as well.
#[test]
fn discarding_to_the_end_gives_the_last_page_back() {
    let page = page_size();
    for options in both_kinds() {
        let mut memory = options
            .huge_pages(HugePages::Never)
            .allocate(3 * page + 5)
            .unwrap();
        memory.fill(7);
        memory.discard(page..).unwrap();
        assert_eq!(resident_pages(&memory), 1);
        memory.discard(..0).unwrap();
        memory.discard(3 * page + 5..).unwrap();
        assert_eq!((memory[page - 1], memory[page]), (7, 0));
    }
}

#[test]
fn shrinking_gives_ram_back_at_once() {
    // In a process of its own: the kernel merges areas, and smaps counts whole ones.
    scenario!(|| {
        let page = page_size();
        for options in both_kinds() {
            let mut memory = options
                .huge_pages(HugePages::Never)
                .allocate(1024 * page)
                .unwrap();
            memory.fill(7);
            let whole = range_of(&memory);
            memory.resize(10 * page + 1).unwrap();
            assert_eq!(resident_pages(&memory), 11);
            // Something may have been mapped there by now, but nothing so large that has its bytes.
            let kept = memory.as_ptr() as usize..whole.end;
            assert!(smaps(kept, "Rss") < 512 * page);
            memory.resize(1024 * page).unwrap();
            assert_eq!(resident_pages(&memory), 11, "growing grants nothing");
        }
    })
    .succeed();
}

#[test]
fn growing_and_moving_copies_no_page() {
    if !may_write(GIB as u64) {
        return;
    }
    for options in both_kinds() {
        let mut memory = options
            .huge_pages(HugePages::Never)
            .allocate(8 << 20)
            .unwrap();
        memory.fill(7);
        let before = minor_faults();
        memory.resize(GIB).unwrap();
        assert!(minor_faults() - before < 100, "a copy touches each page");
        assert_eq!(resident_pages(&memory), (8 << 20) / page_size());
        assert_same(&memory[..8 << 20], &vec![7; 8 << 20], "moved");
    }
}

/// In a child, whose numbers no other test changes.
#[test]
fn dropping_gives_everything_back_at_once() {
    scenario!(|| {
        // The first shared memory of a process installs the fork handler, which keeps one descriptor.
        drop(stillmap::Anonymous::shared(1).unwrap());
        for options in both_kinds() {
            for huge in [HugePages::System, HugePages::Never, HugePages::Transparent] {
                let before = Holdings::now();
                let mut memory = options.huge_pages(huge).allocate(64 << 20).unwrap();
                memory.fill(7);
                let range = range_of(&memory);
                assert!(status("VmRSS") >= before.resident + (60 << 20));
                drop(memory);
                assert!(status("VmRSS") < before.resident + (2 << 20));
                // The first of them is exactly where the memory was.
                let left = mappings()
                    .into_iter()
                    .find(|area| area.range.start < range.end && range.start < area.range.end);
                assert_eq!(left, None);
                before.assert_nothing_left(format_args!("{huge:?}"));
            }
        }
    })
    .succeed();
}
