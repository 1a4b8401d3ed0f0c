//! Windows of a file.

use super::*;

/// 5,432 bytes beyond 4 GiB, as programs edit a part of a large file: the rest of it stays a hole.
#[test]
fn a_window_beyond_four_gibibytes_allocates_its_own_pages_only() {
    let dir = support::temp_dir_in(env!("CARGO_TARGET_TMPDIR").as_ref());
    let path = dir.path().join("sparse");
    let offset = (4 << 30) + 1;
    let file = File::create(&path).unwrap();
    file.set_len(offset + 5432).unwrap();
    let before = std::fs::metadata(&path).unwrap().blocks();
    let window = Shared::<[AtomicU8]>::options().offset(offset).open(&path);
    let window = window.unwrap();
    assert_eq!(window.len(), 5432);
    window.write_at(5424, b"stillmap").unwrap();
    window[0].store(1, Ordering::Relaxed);
    window.flush_range(0..1).unwrap();
    window.flush_range(5431..).unwrap();
    window.start_writeback().unwrap();
    window.flush().unwrap();
    window.check_fault().unwrap();
    assert!(matches!(
        window.flush_range(5432..5433),
        Err(Error::OutOfBounds { size: 5432, .. })
    ));
    // A file system may allocate more than a page at a time, and the tree that finds them.
    let allocated = std::fs::metadata(&path).unwrap().blocks() - before;
    assert!(allocated * 512 <= 1 << 20, "{allocated} blocks");
    let mut read = [0; 9];
    let file = File::open(&path).unwrap();
    file.read_exact_at(&mut read[..1], offset).unwrap();
    file.read_exact_at(&mut read[1..], offset + 5424).unwrap();
    assert_eq!(&read, b"\x01stillmap");
}

#[test]
fn a_window_is_inside_of_the_file_or_an_error() {
    let dir = temp_dir();
    let content: Vec<u8> = (0..10_000).map(|i| (i % 251) as u8).collect();
    let path = support::file_with(dir.path(), "file", &content);
    let options = Shared::<[AtomicU8]>::options;
    for (offset, len) in [(0, 1), (1, 9_999), (4095, 2), (4096, 0), (4097, 5_903)] {
        let window = options().offset(offset).len(len).open(&path).unwrap();
        let start = offset as usize;
        assert_eq!(
            bytes(&window),
            content[start..start + len],
            "{offset} {len}"
        );
        window.pages().populate(..).unwrap();
        let locked = window.pages().lock(..).unwrap();
        assert!(len == 0 || locked.len() >= len);
        drop(locked);
    }
    let to_the_end = options().offset(9_999).open(&path).unwrap();
    assert_eq!(to_the_end.len(), 1);
    assert!(options().offset(10_000).open(&path).unwrap().is_empty());
    for refused in [
        options().offset(10_001),
        options().offset(9_999).len(2),
        options().offset(u64::MAX).len(1),
        options().offset(u64::MAX),
        options().len(10_001),
    ] {
        let refused = refused.open(&path).unwrap_err();
        assert!(
            matches!(refused, Error::TooSmall { size: 10_000, .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains("file"), "{refused}");
    }
    let many = options().len(usize::MAX).open(&path);
    assert!(matches!(many, Err(Error::TooLarge { .. })), "{many:?}");
}

#[test]
fn elements_of_a_window_are_aligned_and_fill_it() {
    let dir = temp_dir();
    let content: Vec<u8> = (0..10_000).map(|i| (i % 251) as u8).collect();
    let path = support::file_with(dir.path(), "file", &content);
    let misaligned = Shared::<[AtomicU64]>::options()
        .offset(12)
        .len(1)
        .open(&path);
    assert!(matches!(
        misaligned,
        Err(Error::Misaligned {
            value: 12,
            align: 8,
            ..
        })
    ));
    let value = Shared::<AtomicU32>::options().offset(4092).open(&path);
    let expected = u32::from_ne_bytes(content[4092..4096].try_into().unwrap());
    assert_eq!(value.unwrap().load(Ordering::Relaxed), expected);
    let rest = Shared::<[AtomicU32]>::options().offset(8).open(&path);
    assert_eq!(rest.unwrap().len(), 2_498);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(9_998).unwrap();
    let rest = Shared::<[AtomicU32]>::options().offset(8).open(&path);
    assert!(matches!(
        rest,
        Err(Error::WrongSize {
            size: 9_990,
            multiple_of: 4,
            ..
        })
    ));
}

/// The size that counts is that of the file up to the end of the window, not the length of the window.
#[test]
fn a_window_that_is_cut_off_is_faulted_and_one_before_the_cut_is_not() {
    let dir = temp_dir();
    let page = support::kernel::page_size();
    let path = support::file_with(dir.path(), "file", &vec![7; 5 * page - 100]);
    let window = |offset| {
        let options = Shared::<[AtomicU8]>::options().offset(offset).len(100);
        options.open(&path).unwrap()
    };
    let (first, last, touched) = (
        window(50),
        window(4 * page as u64 + 600),
        window(4 * page as u64 + 600),
    );
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(2 * page as u64 + 600).unwrap();
    first.check_fault().unwrap();
    first.flush().unwrap();
    // Before a missing page is touched, and after.
    assert!(matches!(last.check_fault(), Err(Error::PagesLost { .. })));
    assert_eq!(touched[99].load(Ordering::Relaxed), 0);
    let mut read = [1; 100];
    assert!(matches!(
        touched.read_at(0, &mut read),
        Err(Error::PagesLost { .. })
    ));
    assert!(matches!(touched.flush(), Err(Error::PagesLost { .. })));
    assert_eq!(bytes(&first), [7; 100]);
}

#[test]
fn a_window_of_a_memfd_is_sealed_with_all_of_it() {
    let all = Shared::<[AtomicU8]>::memfd_slice("test", 10_000).unwrap();
    all.write_at(5_000, b"window").unwrap();
    let fd = duplicate(&all);
    drop(all);
    let window = Shared::<[AtomicU8]>::options().offset(5_000).len(6);
    let sealed = window.from_fd(&fd).unwrap().seal().unwrap();
    assert_eq!(&sealed[..], b"window");
    assert_eq!(Snapshot::from_fd(&fd).unwrap().len(), 10_000);
}
