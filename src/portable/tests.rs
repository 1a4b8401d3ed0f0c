//! The portable types do what those of Linux do; run on Linux, where both are compiled.

use super::{
    Anonymous, Draft, Exclusive, Live, Private, Shared, Snapshot, SnapshotOptions, fork, open_all,
};
use crate::{Backing, Change, Error, Reason, Replace};
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

pub(super) fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub(super) fn file_of(directory: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join("file");
    fs::write(&path, bytes).unwrap();
    path
}

/// Every window of a file is what `std` reads there, or out of bounds; by path, descriptor and file.
#[test]
fn a_window_of_a_file_is_its_bytes_or_an_error() {
    let directory = directory();
    let bytes: Vec<u8> = (0..=250).collect();
    let path = file_of(&directory, &bytes);
    let mut file = fs::File::open(&path).unwrap();
    for offset in [0, 1, 250, 251, 252] {
        for len in [
            None,
            Some(0),
            Some(1),
            Some(250),
            Some(251),
            Some(usize::MAX),
        ] {
            let mut options = Snapshot::options().offset(offset);
            if let Some(len) = len {
                options = options.len(len);
            }
            file.seek(SeekFrom::Start(7)).unwrap();
            let found = options.from_file(&file);
            assert_eq!(file.stream_position().unwrap(), 7, "the offset stays");
            let start = offset as usize;
            let end = len.map_or(Some(251), |len| start.checked_add(len));
            let expected = end.and_then(|end| bytes.get(start..end));
            match (&found, expected) {
                (Ok(found), Some(expected)) => assert_eq!(&found[..], expected),
                (Err(Error::OutOfBounds { .. }), None) => {}
                other => panic!("{offset} {len:?}: {other:?}"),
            }
            let by_path = options.open(&path);
            assert_eq!(by_path.ok().as_deref(), found.ok().as_deref());
        }
    }
    file.seek(SeekFrom::Start(7)).unwrap();
    assert_eq!(&Snapshot::from_fd(&file).unwrap()[..], &bytes[7..]);
    assert_eq!(file.stream_position().unwrap(), 251, "as by reading");
    assert_eq!(&Snapshot::try_from(file).unwrap()[..], bytes);
}

#[test]
fn a_snapshot_keeps_its_bytes_and_says_how() {
    let directory = directory();
    let path = file_of(&directory, b"before");
    let snapshot = Snapshot::open(&path).unwrap();
    let large = file_of(&directory, b"after");
    assert_eq!(&snapshot[..], b"before");
    assert_eq!(snapshot.backing(), Backing::Memory);
    assert_eq!(snapshot.reason(), Some(Reason::Small));
    assert!(snapshot.is_consistent());
    fs::write(&large, vec![7; (1 << 20) + 1]).unwrap();
    if cfg!(not(windows)) {
        let found = Snapshot::open(&large).unwrap();
        assert_eq!(found.reason(), Some(Reason::Platform));
    }
    let options = Snapshot::options().lease(false);
    assert_eq!(
        options.open(&large).unwrap().reason(),
        Some(Reason::NotAsked)
    );
    let refused = options.clone().require_mapping(true).open(&large);
    assert!(matches!(refused, Err(Error::NotMappable { .. })));
    let refused = options.clone().copy_limit(1 << 20).open(&large);
    assert!(matches!(refused, Err(Error::NotMappable { .. })));
    let refused = options.clone().size_limit(1 << 20).open(&large);
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
    let mut seen = Vec::new();
    let all = options
        .progress(|done, total| seen.push((done, total)))
        .open(&large)
        .unwrap();
    assert_eq!(
        seen.last(),
        Some(&(all.len() as u64, Some(all.len() as u64)))
    );
    let refused = Snapshot::open(directory.path());
    assert!(matches!(
        refused,
        Err(Error::IsDirectory { path: Some(_), .. })
    ));
    let missing = Snapshot::open(directory.path().join("missing")).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
    assert!(missing.path().is_some_and(|path| path.ends_with("missing")));
}

/// A pipe is read to its end, or as far as the window goes; an endless device is too large.
#[cfg(unix)]
#[test]
#[cfg_attr(miri, ignore = "Miri does not seek on a pipe")]
fn streams_are_read_as_far_as_the_limits_go() {
    let through_a_pipe = |options: &SnapshotOptions| {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&[1, 2, 3, 4, 5]).unwrap();
        drop(writer);
        options.from_fd(reader).map(|bytes| bytes.to_vec())
    };
    let options = Snapshot::options();
    assert_eq!(through_a_pipe(&options).unwrap(), [1, 2, 3, 4, 5]);
    assert_eq!(
        through_a_pipe(&options.clone().offset(1).len(3)).unwrap(),
        [2, 3, 4]
    );
    // What is skipped takes no memory, and is input.
    let back = options.clone().offset(3);
    let found = through_a_pipe(&back.clone().memory_limit(2));
    assert_eq!(found.unwrap(), [4, 5]);
    assert!(through_a_pipe(&back.clone().memory_limit(1)).is_err());
    assert!(through_a_pipe(&back.clone().size_limit(5)).is_ok());
    assert!(through_a_pipe(&back.size_limit(4)).is_err());
    for outside in [options.clone().offset(6), options.clone().offset(1).len(5)] {
        assert!(matches!(
            through_a_pipe(&outside),
            Err(Error::OutOfBounds { .. })
        ));
    }
    assert_eq!(
        through_a_pipe(&options.clone().copy_limit(5))
            .unwrap()
            .len(),
        5
    );
    assert!(matches!(
        through_a_pipe(&options.clone().copy_limit(4)),
        Err(Error::NotMappable { .. })
    ));
    assert!(matches!(
        options.clone().require_mapping(true).open("/dev/zero"),
        Err(Error::NotMappable { .. })
    ));
    let endless = options.size_limit(3 << 20).open("/dev/zero");
    assert!(matches!(
        endless,
        Err(Error::TooLarge { limit: 3145728, .. })
    ));
}

#[test]
fn private_bytes_change_and_the_file_does_not() {
    let directory = directory();
    let path = file_of(&directory, b"before");
    let mut private = Private::options().offset(1).open(&path).unwrap();
    private[0] = b'E';
    assert_eq!(&private[..], b"Efore");
    assert_eq!(fs::read(&path).unwrap(), b"before");
}

#[test]
fn anonymous_memory_is_zero_wherever_nothing_was_stored() {
    let mut memory = Anonymous::new(100).unwrap();
    assert_eq!(memory.as_ptr().addr() % crate::page::size(), 0);
    memory.fill(7);
    for len in [50, 100, 5000, 0, 70] {
        let kept = memory.iter().filter(|&&byte| byte == 7).count().min(len);
        memory.resize(len).unwrap();
        assert!(memory[..kept].iter().all(|&byte| byte == 7));
        assert!(memory[kept..].iter().all(|&byte| byte == 0), "{len}");
    }
    memory[10..].fill(9);
    memory.discard(5..60).unwrap();
    assert!(memory[..60].iter().all(|&byte| byte == 0) && memory[60..].iter().all(|&b| b == 9));
    assert!(matches!(
        memory.discard(..71),
        Err(Error::OutOfBounds { .. })
    ));
    assert!(matches!(
        Anonymous::new(usize::MAX),
        Err(Error::TooLarge { .. })
    ));
    let pages = memory.pages();
    assert!(pages.prefetch(..).unwrap().is_finished());
    if cfg!(not(windows)) {
        assert!(!pages.residency(..).unwrap().is_reliable());
        assert!(matches!(pages.lock(..), Err(Error::Unsupported { .. })));
    }
    assert_eq!(memory.freeze().unwrap().len(), 70);
}

/// Case: `std` stores zeros where the alignment is more than the least, so that all pages took RAM at once.
#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri has no mincore")]
fn memory_takes_no_ram_before_it_is_touched() {
    let memory = Anonymous::new(1 << 30).unwrap();
    let page = crate::page::size();
    let inside = memory[1 << 29..].as_ptr().addr().next_multiple_of(page);
    let mut is_resident = 0;
    // SAFETY: mincore(2) touches no page of the memory, and writes one byte.
    #[allow(unsafe_code)]
    let done = unsafe {
        let inside = std::ptr::with_exposed_provenance_mut(inside);
        libc::mincore(inside, page, &raw mut is_resident)
    };
    assert_eq!((done, is_resident & 1), (0, 0));
    assert_eq!(memory[1 << 29], 0);
}

#[test]
fn threads_share_memory_and_processes_do_not() {
    let shared = Shared::<[AtomicU32]>::with_len(3).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..100 {
                    shared[2].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(shared[2].load(Ordering::Relaxed), 200);
    let bytes = Shared::<[AtomicU8]>::with_len(4).unwrap();
    bytes.write_at(1, &[1, 2]).unwrap();
    let mut read = [9; 4];
    bytes.read_at(0, &mut read).unwrap();
    assert_eq!(read, [0, 1, 2, 0]);
    assert!(matches!(
        bytes.read_at(1, &mut read),
        Err(Error::OutOfBounds { .. })
    ));
    let unsupported = |error: Error| matches!(error, Error::Unsupported { .. });
    assert!(cfg!(windows) || unsupported(Shared::<AtomicU32>::memfd("name").unwrap_err()));
    assert!(unsupported(Shared::<AtomicU32>::open("name").unwrap_err()));
    assert!(unsupported(bytes.seal().unwrap_err()));
    assert!(cfg!(windows) || unsupported(Exclusive::open("name").unwrap_err()));
    assert!(unsupported(Anonymous::shared(1).unwrap_err()));
    assert!(unsupported(fork::scope(|_| panic!("called")).unwrap_err()));
}

#[test]
fn a_live_file_shows_what_is_appended_and_tells_what_is_cut() {
    let directory = directory();
    let path = file_of(&directory, &7_u32.to_ne_bytes());
    let mut live = Live::open(&path).unwrap();
    assert_eq!(live.load::<AtomicU32>(0).unwrap().into_inner(), 7);
    assert!(matches!(
        live.load::<AtomicU32>(1),
        Err(Error::OutOfBounds { .. })
    ));
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"more").unwrap();
    assert_eq!(live.refresh().unwrap(), Change::Grown(4..8));
    let mut buf = [0; 9];
    assert_eq!(live.read_at(4, &mut buf).unwrap(), 4);
    assert_eq!(&buf[..4], b"more");
    assert_eq!(live.read_at(8, &mut buf).unwrap(), 0);
    assert_eq!(&live.snapshot(5..).unwrap()[..], b"ore");
    file.set_len(6).unwrap();
    assert!(matches!(live.check_fault(), Err(Error::PagesLost { .. })));
    assert!(matches!(
        live.read_at(4, &mut buf),
        Err(Error::PagesLost { .. })
    ));
    assert_eq!(live.read_at(4, &mut buf[..2]).unwrap(), 2);
    // Also if the file has been rewritten since.
    file.write_all(b"xy").unwrap();
    assert_eq!(live.refresh().unwrap(), Change::PagesLost);
    file.set_len(6).unwrap();
    assert_eq!(live.refresh().unwrap(), Change::Cut(6..8));
    assert_eq!(live.refresh().unwrap(), Change::Same);
}

/// Case: an open of a FIFO waited for a writer. That of a socket fails.
#[cfg(unix)]
#[test]
#[cfg_attr(miri, ignore = "Miri has no sockets")]
fn what_is_no_file_is_not_opened_as_a_live_one() {
    let directory = directory();
    let path = directory.path().join("socket");
    let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(matches!(Live::open(&path), Err(Error::NotMappable { .. })));
}

#[test]
fn many_files_are_opened_in_order() {
    let directory = directory();
    let path = file_of(&directory, b"bytes");
    let missing = directory.path().join("missing");
    let found: Vec<_> = open_all([&path, &missing, &path])
        .map(|bytes| bytes.map(|b| b.len()).ok())
        .collect();
    assert_eq!(found, [Some(5), None, Some(5)]);
}

/// A file of /proc says that it is empty.
#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri has no /proc")]
fn a_file_without_a_size_keeps_its_offset() {
    let whole = fs::read("/proc/version").unwrap();
    let mut file = fs::File::open("/proc/version").unwrap();
    file.seek(SeekFrom::Start(5)).unwrap();
    let over = Snapshot::options().size_limit(3).from_fd(&file);
    assert!(matches!(over, Err(Error::TooLarge { .. })));
    assert_eq!(file.stream_position().unwrap(), 5, "after an error");
    assert_eq!(&Snapshot::from_file(&file).unwrap()[..], whole);
    assert_eq!(file.stream_position().unwrap(), 5, "the offset stays");
    assert_eq!(&Snapshot::from_fd(&file).unwrap()[..], &whole[5..]);
    assert_eq!(file.stream_position().unwrap(), whole.len() as u64);
}

/// Before: what had been read was lost with an error.
#[cfg(unix)]
#[test]
#[cfg_attr(miri, ignore = "Miri has no poll")]
fn a_descriptor_in_non_blocking_mode_is_waited_for() {
    let (reader, mut writer) = std::os::unix::net::UnixStream::pair().unwrap();
    reader.set_nonblocking(true).unwrap();
    let (read, was_read) = std::sync::mpsc::channel();
    writer.write_all(b"first ").unwrap();
    let writing = std::thread::spawn(move || {
        was_read.recv().unwrap();
        writer.write_all(b"second").unwrap();
    });
    let options = Snapshot::options().progress(|_, _| _ = read.send(()));
    assert_eq!(&options.from_fd(reader).unwrap()[..], b"first second");
    writing.join().unwrap();
}
