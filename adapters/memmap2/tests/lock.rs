//! Locks of maps that share a page. A process of its own: other tests look at all locked memory.

use std::fs;
use std::ops::Range;
use stillmap_memmap2::Mmap;

/// Whether the page of a byte is locked: the kernel refuses to invalidate it then.
fn is_locked(byte: &u8) -> bool {
    let page = stillmap::page::size();
    let start = std::ptr::from_ref(byte).addr() / page * page;
    let flags = libc::MS_ASYNC | libc::MS_INVALIDATE;
    // SAFETY: it changes no byte.
    let status = unsafe { libc::msync(std::ptr::without_provenance_mut(start), page, flags) };
    status != 0
}

fn pages(bytes: &[u8]) -> Range<usize> {
    let pages = bytes.as_ptr_range();
    let page = stillmap::page::size();
    pages.start.addr() / page..pages.end.addr() / page + 1
}

#[test]
fn a_page_of_several_small_maps_is_unlocked_with_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("small");
    fs::write(&path, [7; 100]).unwrap();
    let open = |_| Mmap::map(fs::File::open(&path).unwrap()).unwrap();
    let maps: Vec<Mmap> = (0..200).map(open).collect();
    let shares = maps
        .windows(2)
        .any(|pair| pages(&pair[0]) == pages(&pair[1]));
    assert!(shares, "small maps share pages");
    for map in &maps {
        map.lock().unwrap();
    }
    let (mut even, mut odd) = (Vec::new(), Vec::new());
    for (number, map) in maps.into_iter().enumerate() {
        [&mut even, &mut odd][number % 2].push(map);
    }
    // Unlocked by hand and by drop.
    even[..50].iter().for_each(|map| map.unlock().unwrap());
    let kept = even.drain(..50).collect::<Vec<_>>();
    drop(even);
    assert!(
        odd.iter()
            .all(|map| is_locked(&map[0]) && is_locked(&map[99]))
    );
    let last = odd.pop().unwrap();
    odd.iter().for_each(|map| map.unlock().unwrap());
    let is_free = |map: &&Mmap| !pages(&last).contains(&pages(map).start);
    assert!(kept.iter().filter(is_free).all(|map| !is_locked(&map[0])));
    assert!(is_locked(&last[0]));
    last.unlock().unwrap();
    assert!(!is_locked(&last[0]));

    // A page that the program has locked by other means stays locked.
    // SAFETY: it changes no byte.
    assert_eq!(unsafe { libc::mlock(last.as_ptr().cast(), 1) }, 0);
    last.lock().unwrap();
    last.unlock().unwrap();
    assert!(is_locked(&last[0]));
}
