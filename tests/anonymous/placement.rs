//! `hint_address` and `fixed_address`: addresses of the caller's choice, replacing nothing.

use crate::both_kinds;
use crate::support::bytes::assert_same;
use crate::support::kernel::{mapping_at, page_size};
use stillmap::{Anonymous, Error, HugePages};

/// A hole of `len` bytes where no other mapping is likely to appear.
fn hole(len: usize) -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    // Far from everything that the kernel places by itself, and within 512 GiB, which is all that some machines have.
    // Every call gets a part of its own.
    static NEXT: AtomicUsize = AtomicUsize::new(0x1000_0000 << (usize::BITS / 4 - 8));
    let start = NEXT.fetch_add(
        len.next_multiple_of(1 << (usize::BITS / 2 - 2)),
        Ordering::SeqCst,
    );
    assert_eq!(mapping_at(start), None);
    start
}

#[test]
fn at_is_exactly_there() {
    for options in both_kinds() {
        for huge in [HugePages::System, HugePages::Never, HugePages::Transparent] {
            let address = hole(1 << 20);
            let options = options
                .fixed_address(address)
                .huge_pages(huge)
                .populate(true);
            let mut memory = options.allocate(10_000).unwrap();
            assert_eq!(memory.as_ptr() as usize, address);
            memory.fill(7);
            assert_same(&memory, &[7; 10_000], "there");
            drop(memory);
            // Free again, so it can be used again.
            let memory = options.allocate(1).unwrap();
            assert_eq!((memory.as_ptr() as usize, memory[0]), (address, 0));
        }
    }
}

#[test]
fn at_replaces_nothing() {
    let page = page_size();
    for options in both_kinds() {
        let address = hole(1 << 20);
        let mut first = options
            .fixed_address(address + 4 * page)
            .allocate(2 * page)
            .unwrap();
        first.fill(7);
        // On it, over its start, over its end, around it, inside it.
        for (start, pages) in [(4, 2), (3, 2), (5, 2), (0, 16), (4, 1), (5, 1)] {
            let wanted = address + start * page;
            let error = options
                .fixed_address(wanted)
                .allocate(pages * page)
                .unwrap_err();
            assert!(
                matches!(error, Error::AddressTaken { address, .. } if address == wanted),
                "{error:?}"
            );
            assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
            assert!(
                error.to_string().contains(&format!("{wanted:#x}")),
                "{error}"
            );
        }
        assert_same(&first, &vec![7; 2 * page], "undisturbed");
        // Up to it and from its end on there is room.
        let _below = options.fixed_address(address).allocate(4 * page).unwrap();
        let _above = options
            .fixed_address(address + 6 * page)
            .allocate(1)
            .unwrap();
        assert_same(&first, &vec![7; 2 * page], "undisturbed");
    }
    let own = data_of_this_program().as_ptr() as usize / page * page;
    let error = Anonymous::options()
        .fixed_address(own)
        .allocate(1)
        .unwrap_err();
    assert!(matches!(error, Error::AddressTaken { .. }), "{error:?}");
}

fn data_of_this_program() -> &'static str {
    "data of the program"
}

#[test]
fn at_a_misaligned_address_is_an_error() {
    for options in both_kinds() {
        let address = hole(1 << 20);
        for off in [1, 8, 64, page_size() - 1, page_size() + 1] {
            let error = options
                .fixed_address(address + off)
                .allocate(100)
                .unwrap_err();
            assert!(matches!(error, Error::Misaligned { .. }), "{error:?}");
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        }
        assert_eq!(mapping_at(address), None);
    }
}

/// No reference may be null, and none may reach beyond what a process can address.
#[test]
#[cfg(target_pointer_width = "64")] // with 32 bits a process can have nearly all
fn at_addresses_that_nobody_can_have_is_an_error() {
    let page = page_size();
    for options in both_kinds() {
        for address in [
            0,
            usize::MAX / page * page,
            // A process of s390x can have the others.
            #[cfg(not(target_arch = "s390x"))]
            (usize::MAX / 2 / page * page),
            #[cfg(not(target_arch = "s390x"))]
            (1 << 63),
            #[cfg(not(target_arch = "s390x"))]
            (1 << 60),
        ] {
            for len in [1, page, 3 * page] {
                let result = options.fixed_address(address).allocate(len);
                assert!(result.is_err(), "{address:#x} {len}: {result:?}");
                assert_eq!(mapping_at(address), None);
            }
        }
    }
}

#[test]
fn near_is_there_if_there_is_room() {
    for options in both_kinds() {
        let address = hole(1 << 20);
        let first = options.hint_address(address + 7).allocate(10_000).unwrap();
        assert_eq!(first.as_ptr() as usize, address);
        let mut second = options.hint_address(address).allocate(10_000).unwrap();
        assert_ne!(second.as_ptr() as usize, address);
        second.fill(7);
        assert_same(&first, &[0; 10_000], "undisturbed");
    }
}

#[test]
fn near_is_a_hint_that_cannot_fail() {
    for options in both_kinds() {
        for address in [
            0,
            1,
            4095,
            usize::MAX,
            usize::MAX - 4096,
            usize::MAX / 2 + 1,
        ] {
            for huge in [HugePages::System, HugePages::Transparent] {
                let memory = options
                    .hint_address(address)
                    .huge_pages(huge)
                    .allocate(5000)
                    .unwrap();
                assert_same(&memory, &[0; 5000], address);
                assert_ne!(memory.as_ptr() as usize, 0);
            }
        }
    }
}

#[test]
fn a_placed_memory_can_be_resized_and_the_neighbour_stays() {
    let page = page_size();
    for options in both_kinds() {
        let address = hole(1 << 20);
        let mut neighbour = options
            .fixed_address(address + page)
            .allocate(page)
            .unwrap();
        neighbour.fill(9);
        let mut memory = options.fixed_address(address).allocate(page).unwrap();
        memory.fill(7);
        memory.resize(3 * page).unwrap();
        assert_same(&memory[..page], &vec![7; page], "kept");
        assert_same(&memory[page..], &vec![0; 2 * page], "new");
        assert_same(&neighbour, &vec![9; page], "neighbour");
        memory.resize(1).unwrap();
        memory.discard(..).unwrap();
        assert_same(&neighbour, &vec![9; page], "neighbour");
    }
}
