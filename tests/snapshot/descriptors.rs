//! Descriptors in every state in which they can be handed over.

use crate::sizes::{assert_snapshot, assert_snapshot_from};
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::kernel::offset_of;
use crate::support::pipe::make_fifo;
use crate::support::{by_name, file_with, skip, temp_dir};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use stillmap::{Error, Snapshot};

/// Small enough to be read, large enough not to be.
const SIZES: [usize; 3] = [10_000, 700_000, (4 << 20) + 99];

#[test]
fn from_the_offset_on_and_left_at_the_end() {
    let dir = temp_dir();
    for size in SIZES {
        let bytes = pattern(1, size);
        let path = file_with(dir.path(), "file", &bytes);
        for offset in [0, 1, 4095, 4096, 4097, size - 1, size] {
            let mut file = File::open(&path).unwrap();
            file.seek(SeekFrom::Start(offset as u64)).unwrap();
            let what = format!("{size} bytes from {offset}");
            let snapshot = Snapshot::from_fd(&file).unwrap();
            assert_snapshot_from(offset, &snapshot, &bytes[offset..], &what);
            assert_eq!(offset_of(&file), size as u64, "{what}: offset left");
            assert_eq!(file.read(&mut [0]).unwrap(), 0, "{what}: at the end");
            assert_snapshot(&Snapshot::from_fd(&file).unwrap(), b"", "once more");
        }
    }
}

#[test]
fn an_offset_past_the_end_gives_nothing_as_reading_would() {
    let dir = temp_dir();
    for size in SIZES {
        let path = file_with(dir.path(), "file", &pattern(1, size));
        for past in [1, 1 << 20, 1 << 40] {
            let mut file = File::open(&path).unwrap();
            let at = size as u64 + past;
            file.seek(SeekFrom::Start(at)).unwrap();
            assert_snapshot(&Snapshot::from_fd(&file).unwrap(), b"", "past the end");
            assert_eq!(offset_of(&file), at, "reading leaves it there");
        }
    }
}

/// `offset` and `len` of the options count from where the descriptor is, as they do in a stream.
#[test]
fn windows_count_from_the_offset_and_leave_it_behind_them() {
    let dir = temp_dir();
    for size in SIZES {
        let bytes = pattern(2, size);
        let path = file_with(dir.path(), "file", &bytes);
        for (at, offset, len) in [
            (0, 0, 10),
            (5, 0, 10),
            (5, 7, 4096),
            (4096, 4096, size - 8192),
            (100, size - 100, 0),
        ] {
            let mut file = File::open(&path).unwrap();
            file.seek(SeekFrom::Start(at as u64)).unwrap();
            let options = Snapshot::options().offset(offset as u64).len(len);
            let what = format!("{len} bytes from {offset} after {at} of {size}");
            let window = options.from_fd(&file).unwrap();
            assert_same(&window, &bytes[at + offset..at + offset + len], &what);
            assert_eq!(offset_of(&file), (at + offset + len) as u64, "{what}");
        }
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(10)).unwrap();
        let past = Snapshot::options().offset(0).len(size - 9).from_fd(&file);
        assert!(matches!(past, Err(Error::OutOfBounds { .. })), "{past:?}");
        assert_eq!(offset_of(&file), 10, "an error moves nothing");
    }
}

#[test]
fn read_write_append_and_deleted() {
    let dir = temp_dir();
    for size in SIZES {
        let bytes = pattern(3, size);
        let path = file_with(dir.path(), "file", &bytes);
        let read_write = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        assert_snapshot(&Snapshot::from_fd(&read_write).unwrap(), &bytes, "O_RDWR");
        assert_eq!(offset_of(&read_write), size as u64);
        let append = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .unwrap();
        assert_snapshot(&Snapshot::from_fd(&append).unwrap(), &bytes, "O_APPEND");
        assert_eq!(offset_of(&append), size as u64);
        // The descriptor may be the only one, and be given away.
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_snapshot(&Snapshot::from_fd(file).unwrap(), &bytes, "deleted");
    }
}

#[test]
fn a_name_that_now_means_another_file_does_not_matter() {
    let dir = temp_dir();
    let bytes = pattern(4, 3 << 20);
    let path = file_with(dir.path(), "file", &bytes);
    let file = File::open(&path).unwrap();
    std::fs::rename(&path, dir.path().join("elsewhere")).unwrap();
    std::fs::write(&path, "another").unwrap();
    assert_snapshot(&Snapshot::from_fd(&file).unwrap(), &bytes, "renamed");
}

/// `cat` would fail with EBADF, though the file could be reopened for reading behind its back.
#[test]
fn write_only_is_an_error() {
    let dir = temp_dir();
    for size in SIZES {
        let path = file_with(dir.path(), "file", &pattern(5, size));
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        let error = Snapshot::from_fd(&file).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error:?}");
        assert!(error.to_string().contains("file"), "{error}");
        assert_eq!(offset_of(&file), 0, "an error moves nothing");
    }
    let (_reader, writer) = crate::support::pipe::pipe();
    let error = Snapshot::from_fd(&writer).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error:?}");
}

#[test]
fn a_descriptor_that_only_names_a_file_is_an_error_or_its_bytes() {
    let dir = temp_dir();
    for size in SIZES {
        let bytes = pattern(6, size);
        let path = file_with(dir.path(), "file", &bytes);
        let named = by_name(&path);
        match Snapshot::from_fd(&named) {
            Ok(snapshot) => assert_snapshot(&snapshot, &bytes, "O_PATH"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error:?}"),
        }
    }
}

/// Reads through O_DIRECT have to be aligned in every way; `cat` manages.
#[test]
fn a_direct_descriptor() {
    let dir = temp_dir();
    for size in [0, 1, 511, 4096, 10_000, 700_000, (4 << 20) + 99] {
        let bytes = pattern(7, size);
        let path = file_with(dir.path(), "file", &bytes);
        let direct = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&path);
        let direct = match direct {
            Ok(file) => file,
            Err(error) => return skip(format_args!("O_DIRECT here: {error}")),
        };
        let snapshot = Snapshot::from_fd(&direct);
        assert_snapshot(&snapshot.unwrap(), &bytes, format_args!("{size} O_DIRECT"));
    }
}

/// A file of /proc has size 0, and bytes. Before: its offset was where reading had stopped, also after an error, and
/// `from_file` began there.
#[test]
fn a_file_without_a_size_keeps_its_offset() {
    let whole = std::fs::read("/proc/version").unwrap();
    let mut file = File::open("/proc/version").unwrap();
    file.read_exact(&mut [0; 5]).unwrap();
    let over = Snapshot::options().size_limit(3).from_fd(&file);
    assert!(matches!(over, Err(Error::TooLarge { .. })), "{over:?}");
    assert_eq!(offset_of(&file), 5, "after an error");
    assert_same(&Snapshot::from_file(&file).unwrap(), &whole, "whole");
    assert_eq!(offset_of(&file), 5, "neither read nor moved");
    assert_same(&Snapshot::from_fd(&file).unwrap(), &whole[5..], "the rest");
    assert_eq!(offset_of(&file), whole.len() as u64);
}

/// Before: the FIFO was opened again, which waits for another writer. In a child, so that a hang ends.
#[test]
fn a_fifo_that_is_given_up_after_its_writer_has_gone() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("fifo");
        make_fifo(&path);
        let reader = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .unwrap();
        let mut writer = File::options().write(true).open(&path).unwrap();
        writer.write_all(b"left").unwrap();
        drop(writer);
        assert_same(&Snapshot::try_from(reader).unwrap(), b"left", "FIFO");
    })
    .succeed();
}
