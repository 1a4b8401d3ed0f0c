//! Sections that processes share by a handle.

use crate::support::*;
use crate::*;
use std::os::windows::io::{AsRawHandle, BorrowedHandle};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Elements of a section that is larger than what one view of it starts at a multiple of.
const LEN: usize = 50_000;

/// The section whose handle this process has inherited; its number is given as the path.
fn inherited() -> Option<BorrowedHandle<'static>> {
    let number: usize = child_path()?.to_str()?.parse().ok()?;
    // SAFETY: the parent has the section open until this process has ended, and a child inherits its handles.
    Some(unsafe { BorrowedHandle::borrow_raw(number as *mut _) })
}

fn spawn_with(test: &str, handle: BorrowedHandle<'_>) -> std::process::Child {
    let number = handle.as_raw_handle().addr().to_string();
    spawn(test, Path::new(&number))
}

#[test]
fn two_processes_count_in_one_section() {
    const NAME: &str = "shared::two_processes_count_in_one_section";
    const ROUNDS: u64 = 20_000;
    if let Some(handle) = inherited() {
        let counters = Shared::<[AtomicU64]>::from_handle_slice(handle, LEN).unwrap();
        for _ in 0..ROUNDS {
            counters[LEN - 1].fetch_add(1, Ordering::Relaxed);
        }
        return;
    }
    let counters = Shared::<[AtomicU64]>::memfd_slice("counters", LEN).unwrap();
    assert!(counters.iter().all(|n| n.load(Ordering::Relaxed) == 0));
    let handle = counters.handle().unwrap();
    let children = [spawn_with(NAME, handle), spawn_with(NAME, handle)];
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(counters[LEN - 1].load(Ordering::Relaxed), 2 * ROUNDS);
}

#[test]
fn a_section_outlives_the_one_who_made_it() {
    let made = Shared::<AtomicU32>::memfd("one").unwrap();
    made.store(7, Ordering::Relaxed);
    let second = Shared::<AtomicU32>::from_handle(made.handle().unwrap()).unwrap();
    drop(made);
    assert_eq!(second.load(Ordering::Relaxed), 7);
    assert!(Shared::<AtomicU32>::new().unwrap().handle().is_none());
}

#[test]
fn a_handle_of_too_few_bytes_or_of_no_section_is_an_error() {
    let one = Shared::<AtomicU8>::memfd("one").unwrap();
    let handle = one.handle().unwrap();
    let page = Shared::<[AtomicU8]>::from_handle_slice(handle, 4096).unwrap();
    assert_eq!(page.len(), 4096, "a section has whole pages");
    let error = Shared::<[AtomicU8]>::from_handle_slice(handle, 4097).unwrap_err();
    assert!(matches!(
        error,
        Error::TooSmall {
            needed: 4097,
            size: 4096,
            ..
        }
    ));
    let error = Shared::<[AtomicU64]>::from_handle_slice(handle, usize::MAX / 4).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }));
    let (_folder, path) = large_file();
    let file = std::fs::File::open(path).unwrap();
    assert!(Shared::<AtomicU8>::from_handle(&file).is_err());
    assert!(
        Shared::<[AtomicU8]>::memfd_slice("none", 0)
            .unwrap()
            .is_empty()
    );
    assert!(Shared::<[AtomicU8]>::memfd_slice("all", usize::MAX / 2).is_err());
}

#[test]
fn a_file_is_not_shared() {
    let unsupported = |error| matches!(error, Error::Unsupported { .. });
    assert!(unsupported(Shared::<AtomicU8>::open("file").unwrap_err()));
    assert!(unsupported(Shared::<AtomicU8>::create("file").unwrap_err()));
    let made = Shared::<AtomicU8>::memfd("one").unwrap();
    assert!(unsupported(made.seal().unwrap_err()));
}
