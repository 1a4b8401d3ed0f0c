//! Residency, prefetching and locks of memory in whole pages.

use crate::support::*;
use crate::*;

const PAGE: usize = 4096;

#[test]
fn residency_shows_the_pages_that_were_touched() {
    let mut memory = Anonymous::new(64 * PAGE).unwrap();
    memory[8 * PAGE..16 * PAGE].fill(1);
    let residency = memory.pages().residency(..).unwrap();
    assert!(residency.is_reliable());
    assert_eq!(residency.pages(), 64);
    assert!(residency.resident_ranges().eq([8 * PAGE..16 * PAGE]));
    assert!(memory.pages().is_resident(8 * PAGE + 1..9 * PAGE).unwrap());
    assert!(!memory.pages().is_resident(7 * PAGE..9 * PAGE).unwrap());
    assert!(memory.pages().is_resident(3..3).unwrap());
    let outside = memory.pages().residency(..64 * PAGE + 1);
    assert!(matches!(outside, Err(Error::OutOfBounds { .. })));
}

#[test]
fn a_mapped_file_is_prefetched_and_then_resident() {
    let (_folder, path) = large_file();
    let snapshot = Snapshot::options().offset(100).open(&path).unwrap();
    assert_eq!(snapshot.backing(), Backing::Locked);
    let pages = snapshot.pages();
    assert!(pages.prefetch(5..).unwrap().is_finished());
    pages.populate(..).unwrap();
    let residency = pages.residency(..).unwrap();
    assert!(residency.is_full() && residency.is_reliable());
    assert_eq!(residency.pages(), LARGE.div_ceil(PAGE));
    let outside = pages.prefetch(LARGE..=LARGE);
    assert!(matches!(outside, Err(Error::OutOfBounds { .. })));
}

#[test]
fn locks_nest_and_end_with_their_guards() {
    let memory = Anonymous::new(8 * PAGE + 1).unwrap();
    let pages = memory.pages();
    let outer = pages.lock(PAGE - 1..3 * PAGE).unwrap();
    assert_eq!((outer.len(), outer.is_held()), (3 * PAGE, true));
    let inner = pages.lock(2 * PAGE..2 * PAGE + 1).unwrap();
    assert_eq!(inner.len(), PAGE);
    drop(outer);
    drop(inner);
    assert!(pages.lock(4..4).unwrap().is_empty());
    assert!(matches!(
        pages.lock(..9 * PAGE),
        Err(Error::OutOfBounds { .. })
    ));
    let shared = Shared::<[std::sync::atomic::AtomicU8]>::memfd_slice("key", 100).unwrap();
    assert_eq!(shared.pages().lock(..).unwrap().len(), PAGE);
}

/// Their pages can hold other blocks of the program.
#[test]
fn pages_of_the_heap_are_not_locked() {
    let (_folder, path) = large_file();
    let read = Snapshot::options().lease(false).open(&path).unwrap();
    let locked = read.pages().lock(..);
    assert!(matches!(locked, Err(Error::Unsupported { .. })));
    assert!(read.pages().prefetch(..).unwrap().is_finished());
}

#[test]
fn memory_is_zero_after_it_grows_and_moves() {
    let mut memory = Anonymous::new(PAGE).unwrap();
    memory.fill(1);
    for len in [100 * PAGE, 3, 200_000, 0, 70_000] {
        let kept = memory
            .iter()
            .take_while(|&&byte| byte == 1)
            .count()
            .min(len);
        memory.resize(len).unwrap();
        assert_eq!(memory.as_ptr().addr() % PAGE, 0);
        assert!(memory[..kept].iter().all(|&byte| byte == 1));
        assert!(memory[kept..].iter().all(|&byte| byte == 0));
    }
    let frozen = memory.freeze().unwrap();
    assert_eq!((frozen.len(), frozen.backing()), (70_000, Backing::Memory));
    assert!(matches!(
        Anonymous::new(usize::MAX / 2 - PAGE),
        Err(Error::Os { .. })
    ));
}
