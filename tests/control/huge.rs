//! Huge pages, counted by smaps.

use crate::support::child::scenario;
use crate::support::kernel::smaps;
use crate::support::pool::{HugePagePool, huge_page_size};
use crate::support::skip;
use folio::{Anonymous, HugePages, Mapping, page};

/// What smaps says of the mapping, which must have an area of its own.
fn in_smaps(memory: &Anonymous) -> usize {
    let start = memory.as_ptr() as usize;
    let fields = [
        "AnonHugePages",
        "ShmemPmdMapped",
        "FilePmdMapped",
        "Private_Hugetlb",
        "Shared_Hugetlb",
    ];
    let of_field = |field| smaps(start..start + memory.len(), field);
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
    assert_eq!(memory.huge_bytes().expect("huge bytes"), 0, "not touched");
    memory.populate(..8 * huge).expect("populate");
    let bytes = memory.huge_bytes().expect("huge bytes");
    assert_eq!(bytes, in_smaps(&memory));
    if bytes == 0 {
        return skip("the kernel gave no huge page");
    }
    assert!(bytes <= 8 * huge, "{bytes}");
    let small = allocate(HugePages::Never, 4 * huge);
    small.populate(..).expect("populate");
    assert_eq!(small.huge_bytes().expect("huge bytes"), 0);
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
    memory.populate(..).expect("populate");
    assert_eq!(memory.huge_bytes().expect("huge bytes"), in_smaps(&memory));
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
        .populate(huge_page_size() + 1..huge_page_size() + 2)
        .expect("populate");
    assert_eq!(memory.huge_bytes().expect("huge bytes"), huge_page_size());
    assert_eq!(in_smaps(&memory), huge_page_size());
    assert_eq!(
        memory.residency().expect("residency").resident_bytes(),
        huge_page_size()
    );
    memory
        .advise(5..10, folio::Advice::DontDump)
        .expect("advice");
    drop(memory.lock(..).expect("lock"));
}

#[test]
fn collapse_makes_them_of_small_ones() {
    let Some(huge) = page::huge_size() else {
        return skip("no huge pages");
    };
    if !folio::Advice::Collapse.is_supported() {
        return skip("MADV_COLLAPSE needs Linux 6.1");
    }
    let mut memory = allocate(HugePages::Never, 4 * huge);
    memory.fill(3);
    assert_eq!(memory.huge_bytes().expect("huge bytes"), 0);
    memory.advise(.., folio::Advice::HugePage).expect("advice");
    memory
        .advise(.., folio::Advice::Collapse)
        .expect("collapse");
    assert!(memory.huge_bytes().expect("huge bytes") >= 3 * huge);
    assert!(memory.iter().all(|&byte| byte == 3));
}
