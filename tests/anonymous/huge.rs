//! Huge pages: the system's setting, never, transparent, and from the reserved pool.

use crate::both_kinds;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::kernel::{minor_faults, smaps};
use crate::support::pool::{HugePagePool, huge_page_size};
use crate::support::skip;
use stillmap::{Anonymous, Error, HugePages};

/// The word in brackets of a setting in /sys/kernel/mm/transparent_hugepage.
fn setting(name: &str) -> String {
    let path = format!("/sys/kernel/mm/transparent_hugepage/{name}");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let chosen = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or("never".into(), |(word, _)| word.into())
}

fn huge_bytes(memory: &Anonymous) -> usize {
    let start = memory.as_ptr() as usize;
    ["AnonHugePages", "ShmemPmdMapped"]
        .into_iter()
        .map(|field| smaps(start..start + memory.len(), field))
        .sum()
}

#[test]
fn transparent_takes_one_fault_for_many_pages() {
    if setting("enabled") == "never" {
        return skip("transparent huge pages are switched off");
    }
    let Some(huge) = stillmap::page::huge_size() else {
        return skip("no transparent huge pages");
    };
    let len = 16 * huge;
    let options = Anonymous::options().huge_pages(HugePages::Transparent);
    let mut memory = options.allocate(len).unwrap();
    assert_eq!(memory.as_ptr() as usize % huge, 0, "or none would fit");
    let bytes = pattern(1, len);
    let before = minor_faults();
    memory.copy_from_slice(&bytes);
    let faults = minor_faults() - before;
    let got = huge_bytes(&memory);
    if got < len / 2 {
        return skip(format_args!(
            "memory is too fragmented: {got} of {len} bytes"
        ));
    }
    assert!(faults < (len / 4096 / 2) as u64, "{faults} faults");
    memory.resize(2 * len).unwrap();
    assert_same(&memory[..len], &bytes, "grown");
    memory.resize(len / 2 + 1).unwrap();
    assert_same(&memory, &bytes[..len / 2 + 1], "shrunk");
}

#[test]
fn never_takes_none() {
    for options in both_kinds() {
        let mut memory = options
            .huge_pages(HugePages::Never)
            .allocate(16 << 20)
            .unwrap();
        memory.fill(1);
        assert_eq!(huge_bytes(&memory), 0);
        memory.resize(32 << 20).unwrap();
        memory.fill(2);
        assert_eq!(huge_bytes(&memory), 0, "also after growing");
    }
}

#[test]
fn system_takes_what_the_system_says() {
    let mut memory = Anonymous::new(16 << 20).unwrap();
    memory.fill(1);
    match setting("enabled").as_str() {
        "always" => skip("the system gives huge pages to every mapping"),
        _ => assert_eq!(huge_bytes(&memory), 0),
    }
}

#[test]
fn reserved_without_a_pool_is_a_clear_error() {
    let Some(_pool) = HugePagePool::of(0) else {
        return;
    };
    if std::fs::read_to_string("/proc/sys/vm/nr_overcommit_hugepages")
        .is_ok_and(|n| n.trim() != "0")
    {
        return skip("the kernel may add to the pool");
    }
    for options in both_kinds() {
        let options = options.huge_pages(HugePages::Reserved);
        let error = options.allocate(100).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{error:?}");
        assert!(error.to_string().contains("nr_hugepages"), "{error}");
        let mut memory = options.allocate(0).unwrap();
        assert!(memory.resize(1).is_err());
        assert!(memory.is_empty());
    }
}

/// In a child: a page that was promised and is not there is a signal.
#[test]
fn reserved_pages_come_from_the_pool_and_go_back() {
    let mut child = scenario!(|| {
        let huge = huge_page_size();
        for options in both_kinds() {
            let options = options.huge_pages(HugePages::Reserved);
            for populate in [false, true] {
                let mut memory = options.populate(populate).allocate(2 * huge + 1).unwrap();
                assert_eq!(HugePagePool::free(), 1, "three of four are promised");
                let start = memory.as_ptr() as usize;
                assert_eq!(start % huge, 0);
                assert_eq!(smaps(start..start + 1, "KernelPageSize"), huge);
                assert_eq!(memory.len(), 2 * huge + 1);
                assert!(memory.iter().all(|&byte| byte == 0));
                memory.copy_from_slice(&pattern(2, 2 * huge + 1));
                let error = options.allocate(huge + 1).unwrap_err();
                assert_eq!(
                    error.raw_os_error(),
                    Some(libc::ENOMEM),
                    "one is left: {error:?}"
                );

                // Less of it.
                memory.resize(huge + 5).unwrap();
                assert_same(&memory, &pattern(2, huge + 5), "shrunk");
                memory.resize(2 * huge).unwrap();
                assert_same(&memory[..huge + 5], &pattern(2, huge + 5), "grown");
                assert_same(&memory[huge + 5..], &vec![0; huge - 5], "new is zero");
                drop(memory);
                assert_eq!(HugePagePool::free(), 4, "given back");
            }
        }
    });
    let Some(_pool) = HugePagePool::of(4) else {
        return;
    };
    child.succeed();
}

#[test]
fn resizing_beyond_the_pool_is_an_error_and_loses_nothing() {
    let mut child = scenario!(|| {
        let huge = huge_page_size();
        for options in both_kinds() {
            let mut memory = options
                .huge_pages(HugePages::Reserved)
                .allocate(huge)
                .unwrap();
            memory.copy_from_slice(&pattern(3, huge));
            for len in [4 * huge, usize::MAX / 4, usize::MAX] {
                memory.resize(len).unwrap_err();
                assert_same(&memory, &pattern(3, huge), "kept");
            }
            memory.resize(huge / 2).unwrap();
            assert_same(&memory, &pattern(3, huge / 2), "and usable");
        }
    });
    let Some(_pool) = HugePagePool::of(3) else {
        return;
    };
    child.succeed();
}

/// Discarded pages may be in use elsewhere: touching them again must not kill the process.
#[test]
fn reserved_pages_that_were_discarded_are_still_ours() {
    let mut child = scenario!(|| {
        let huge = huge_page_size();
        for options in both_kinds() {
            let options = options.huge_pages(HugePages::Reserved);
            let mut memory = options.allocate(2 * huge).unwrap();
            memory.fill(7);
            memory.discard(..huge + 1).unwrap();
            assert_same(&memory[..huge + 1], &vec![0; huge + 1], "discarded");
            assert_same(&memory[huge + 1..], &vec![7; huge - 1], "kept");
            memory.fill(7);
            memory.discard(..).unwrap();
            // Another mapping takes all free pages.
            let mut others = Vec::new();
            while let Ok(mut other) = options.allocate(huge) {
                other.fill(9);
                others.push(other);
            }
            memory.fill(8);
            assert_same(&memory, &vec![8; 2 * huge], "touched again");
        }
    });
    let Some(_pool) = HugePagePool::of(2) else {
        return;
    };
    child.succeed();
}

#[test]
fn reserved_at_an_address_needs_the_alignment_of_its_pages() {
    let mut child = scenario!(|| {
        let huge = huge_page_size();
        let address = (0x1800_0000_usize << (usize::BITS / 2 - 16)).next_multiple_of(huge);
        for options in both_kinds() {
            let options = options.huge_pages(HugePages::Reserved);
            let error = options
                .fixed_address(address + 4096)
                .allocate(100)
                .unwrap_err();
            assert!(
                matches!(error, Error::Misaligned { align, .. } if align == huge),
                "{error:?}"
            );
            let memory = options.fixed_address(address).allocate(100).unwrap();
            assert_eq!(memory.as_ptr() as usize, address);
            let error = options.fixed_address(address).allocate(100).unwrap_err();
            assert!(matches!(error, Error::AddressTaken { .. }), "{error:?}");
            let _near = options.hint_address(address + 4096).allocate(100).unwrap();
        }
    });
    let Some(_pool) = HugePagePool::of(4) else {
        return;
    };
    child.succeed();
}

#[test]
fn reserved_can_be_frozen() {
    let mut child = scenario!(|| {
        let huge = huge_page_size();
        for options in both_kinds() {
            let mut memory = options
                .huge_pages(HugePages::Reserved)
                .allocate(huge + 9)
                .unwrap();
            memory.copy_from_slice(&pattern(4, huge + 9));
            let frozen = memory.freeze().unwrap();
            assert_same(&frozen, &pattern(4, huge + 9), "frozen");
            drop(frozen);
            assert_eq!(HugePagePool::free(), 2, "given back");
        }
    });
    let Some(_pool) = HugePagePool::of(2) else {
        return;
    };
    child.succeed();
}
