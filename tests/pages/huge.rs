//! Huge pages, counted by smaps.

use crate::flags::areas;
use crate::kinds::{self, Deed};
use crate::support::child::scenario;
use crate::support::kernel::smaps;
use crate::support::pool::{HugePagePool, huge_page_size};
use crate::support::skip;
use std::ops::Range;
use stillmap::{Anonymous, HugePages, Pages, page};

/// What smaps says of the mapping, which must have an area of its own.
fn in_smaps(memory: &Anonymous) -> usize {
    let start = memory.as_ptr() as usize;
    smaps_of(start..start + memory.len())
}

fn smaps_of(addresses: Range<usize>) -> usize {
    let fields = [
        "AnonHugePages",
        "ShmemPmdMapped",
        "FilePmdMapped",
        "Private_Hugetlb",
        "Shared_Hugetlb",
    ];
    let of_field = |field| smaps(addresses.clone(), field);
    fields.map(of_field).iter().sum()
}

fn allocate(how: HugePages, len: usize) -> Anonymous {
    let memory = Anonymous::options().huge_pages(how).allocate(len);
    memory.expect("memory")
}

// In a process of its own: smaps counts for areas, and the kernel merges those of two tests that lie side by side.

#[test]
fn it_agrees_with_smaps() {
    scenario!(agrees_with_smaps).succeed();
}

fn agrees_with_smaps() {
    let Some(huge) = page::huge_size() else {
        return skip("no huge pages");
    };
    let memory = allocate(HugePages::Transparent, 16 * huge);
    assert_eq!(
        memory.pages().huge_bytes().expect("huge bytes"),
        0,
        "not touched"
    );
    memory.pages().populate(..8 * huge).expect("populate");
    let bytes = memory.pages().huge_bytes().expect("huge bytes");
    assert_eq!(bytes, in_smaps(&memory));
    if bytes == 0 {
        return skip("the kernel gave no huge page");
    }
    assert!(bytes <= 8 * huge, "{bytes}");
    let small = allocate(HugePages::Never, 4 * huge);
    small.pages().populate(..).expect("populate");
    assert_eq!(small.pages().huge_bytes().expect("huge bytes"), 0);
}

#[test]
fn shared_memory_is_counted() {
    scenario!(counts_shared_memory).succeed();
}

fn counts_shared_memory() {
    let Some(huge) = page::huge_size() else {
        return skip("no huge pages");
    };
    let options = Anonymous::options()
        .huge_pages(HugePages::Transparent)
        .shared(true);
    let memory = options.allocate(4 * huge).expect("memory");
    memory.pages().populate(..).expect("populate");
    assert_eq!(
        memory.pages().huge_bytes().expect("huge bytes"),
        in_smaps(&memory)
    );
}

#[test]
fn reserved_pages_are_counted_and_can_be_asked_for_in_part() {
    if !crate::support::kernel::can_populate() {
        return;
    }
    let Some(_pool) = HugePagePool::of(4) else {
        return;
    };
    let memory = allocate(HugePages::Reserved, 4 * huge_page_size());
    // One byte is a whole page of theirs.
    memory
        .pages()
        .populate(huge_page_size() + 1..huge_page_size() + 2)
        .expect("populate");
    assert_eq!(
        memory.pages().huge_bytes().expect("huge bytes"),
        huge_page_size()
    );
    assert_eq!(in_smaps(&memory), huge_page_size());
    assert_eq!(
        memory
            .pages()
            .residency(..)
            .expect("residency")
            .resident_bytes(),
        huge_page_size()
    );
    memory
        .pages()
        .advise(5..10, stillmap::Advice::DontDump)
        .expect("advice");
    drop(memory.pages().lock(..).expect("lock"));
}

/// The areas of a value may hold others, too, where the kernel merged them.
struct Count(usize);

impl Deed for Count {
    fn on(&mut self, name: &str, pages: Pages<'_>, bytes: &[u8], is_heap: bool) {
        pages.populate(..).unwrap_or_else(|e| panic!("{name}: {e}"));
        let counted = pages.huge_bytes().expect("huge bytes");
        let start = bytes.as_ptr() as usize;
        let end = (start + bytes.len()).next_multiple_of(page::size());
        let start = page::align_down(start);
        let parts = areas().into_iter().map(|(area, _)| area);
        let parts = parts.filter(|area| area.start < end && start < area.end);
        let inside = |area: Range<usize>| start <= area.start && area.end <= end;
        let said = smaps_of(start..end);
        if !is_heap && parts.into_iter().all(inside) {
            assert_eq!(counted, said, "{name}")
        } else {
            assert!(counted <= said, "{name}: {counted} of {said}")
        }
        self.0 += usize::from(counted > 0);
    }
}

#[test]
fn it_agrees_with_smaps_on_every_type() {
    scenario!(|| {
        let mut count = Count(0);
        kinds::each(&mut count);
        if count.0 == 0 {
            skip("the kernel gave no huge page");
        }
    })
    .succeed();
}

/// False, after saying so, where memory is in pieces too small for a huge page: `ENOMEM`, madvise(2).
fn is_collapsed(memory: &Anonymous, range: Range<usize>) -> bool {
    match memory
        .pages()
        .advise(range.clone(), stillmap::Advice::Collapse)
    {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
            skip("the kernel has no huge page to collapse to");
            false
        }
        Err(error) => panic!("{range:?}: {error:?}"),
    }
}

/// The size of a huge page, if the kernel makes some of small pages.
fn collapsible() -> Option<usize> {
    // SAFETY: this prctl(2) takes no memory.
    let is_disabled = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) } == 1;
    let is_possible = !is_disabled && stillmap::Advice::Collapse.is_supported();
    let huge = page::huge_size().filter(|_| is_possible);
    if huge.is_none() {
        skip("no huge pages for this process, or no MADV_COLLAPSE (Linux 6.1)");
    }
    huge
}

#[test]
fn collapse_takes_the_huge_pages_that_hold_the_range() {
    let Some(huge) = collapsible() else {
        return;
    };
    let small = || {
        let mut memory = allocate(HugePages::Never, 4 * huge + page::size());
        memory.fill(3);
        memory
            .pages()
            .advise(.., stillmap::Advice::HugePage)
            .expect("advice");
        let first = memory.as_ptr().align_offset(huge);
        (memory, first)
    };
    let collapse = |range: Range<usize>, expected: usize| {
        let (memory, first) = small();
        let range = first + range.start..first + range.end;
        if !is_collapsed(&memory, range.clone()) {
            return;
        }
        let bytes = memory.pages().huge_bytes().expect("huge bytes");
        // khugepaged may have been there as well.
        assert!(bytes >= expected, "{range:?}: {bytes}");
        assert!(memory.iter().all(|&byte| byte == 3));
    };
    collapse(5..6, huge);
    collapse(huge - 1..huge + 1, 2 * huge);
    collapse(0..2 * huge, 2 * huge);
    // Nothing to ask for: no huge page lies in it.
    let tiny = allocate(HugePages::Transparent, 5 * page::size());
    tiny.pages()
        .advise(.., stillmap::Advice::Collapse)
        .expect("no huge page");
}

#[test]
fn collapse_makes_them_of_small_ones() {
    let Some(huge) = collapsible() else {
        return;
    };
    let mut memory = allocate(HugePages::Never, 4 * huge);
    memory.fill(3);
    assert_eq!(memory.pages().huge_bytes().expect("huge bytes"), 0);
    memory
        .pages()
        .advise(.., stillmap::Advice::HugePage)
        .expect("advice");
    if !is_collapsed(&memory, 0..4 * huge) {
        return;
    }
    assert!(memory.pages().huge_bytes().expect("huge bytes") >= 3 * huge);
    assert!(memory.iter().all(|&byte| byte == 3));
}
