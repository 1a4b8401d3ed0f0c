//! A file that is locked: what it keeps away, and when it is copied instead.

use crate::support::*;
use crate::*;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};

fn refused_everywhere(path: &std::path::Path, other: &std::path::Path) {
    let violation = Some(SHARING_VIOLATION);
    let open = |options: &mut OpenOptions| code(options.open(path));
    assert_eq!(open(OpenOptions::new().write(true)), violation);
    assert_eq!(open(OpenOptions::new().append(true)), violation);
    assert_eq!(
        open(OpenOptions::new().write(true).truncate(true)),
        violation
    );
    assert_eq!(code(fs::write(path, b"short")), violation);
    assert_eq!(code(fs::remove_file(path)), violation);
    assert_eq!(
        code(fs::rename(path, path.with_extension("away"))),
        violation
    );
    assert!(fs::rename(other, path).is_err());
    // Another name of it: the lock is on the file.
    let link = path.with_extension("link");
    if !link.exists() {
        fs::hard_link(path, &link).unwrap();
    }
    assert_eq!(code(open_for_writing(&link)), violation);
}

#[test]
fn a_locked_file_cannot_be_changed_by_any_process() {
    const NAME: &str = "snapshot::a_locked_file_cannot_be_changed_by_any_process";
    if let Some(path) = child_path() {
        assert_eq!(code(open_for_writing(&path)), Some(SHARING_VIOLATION));
        assert_eq!(code(fs::write(&path, b"short")), Some(SHARING_VIOLATION));
        assert_eq!(Snapshot::open(&path).unwrap().backing(), Backing::Locked);
        return;
    }
    let (folder, path) = large_file();
    let other = folder.path().join("other");
    fs::write(&other, b"other").unwrap();
    let snapshot = Snapshot::open(&path).unwrap();
    assert_eq!(
        (snapshot.backing(), snapshot.reason()),
        (Backing::Locked, None)
    );
    assert!(snapshot.is_consistent() && snapshot[..] == bytes()[..]);
    refused_everywhere(&path, &other);
    assert!(spawn(NAME, &path).wait().unwrap().success());
    assert_eq!(
        fs::read(&path).unwrap(),
        bytes(),
        "readers are not kept away"
    );
    let second = Snapshot::open(&path).unwrap();
    drop(snapshot);
    refused_everywhere(&path, &other);
    assert!(second[..] == bytes()[..]);
    drop(second);
    fs::write(&path, b"short").unwrap();
}

#[test]
fn a_file_that_is_open_for_writing_is_copied() {
    let (_folder, path) = large_file();
    let mut writer = open_for_writing(&path).unwrap();
    let copies = [
        Snapshot::open(&path).unwrap(),
        Snapshot::from_file(
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .unwrap(),
        )
        .unwrap(),
    ];
    writer.write_all(b"changed").unwrap();
    for copy in copies {
        let found = (copy.backing(), copy.reason());
        assert_eq!(found, (Backing::Memory, Some(Reason::OpenForWriting)));
        assert!(copy[..] == bytes()[..]);
    }
    let required = Snapshot::options().require_mapping(true).open(&path);
    assert!(matches!(required, Err(Error::NotMappable { .. })));
    drop(writer);
    assert_eq!(Snapshot::open(&path).unwrap().backing(), Backing::Locked);
}

/// A view outlives the handle that it was made from.
#[test]
fn a_file_with_a_writable_view_is_copied() {
    let (_folder, path) = large_file();
    let writer = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    // SAFETY: nothing else writes to the file or cuts it.
    let mut view = unsafe { memmap2::MmapMut::map_mut(&writer) }.unwrap();
    drop(writer);
    let copy = Snapshot::open(&path).unwrap();
    view[0] ^= 1;
    assert_eq!(copy.reason(), Some(Reason::OpenForWriting));
    assert!(copy[..] == bytes()[..]);
    drop(view);
    assert_eq!(Snapshot::open(&path).unwrap().backing(), Backing::Locked);
}

#[test]
fn every_window_of_a_locked_file_is_its_bytes() {
    let (_folder, path) = large_file();
    let all = bytes();
    let least = (1 << 20) + 1;
    for offset in [0, 1, 4096, 65535, 65536, 65537, 131_073] {
        for len in [least, LARGE - offset] {
            let options = Snapshot::options().offset(offset as u64).len(len);
            let window = options.open(&path).unwrap();
            assert_eq!(window.backing(), Backing::Locked);
            assert!(window[..] == all[offset..offset + len], "{offset} {len}");
            let private = Private::options().offset(offset as u64).len(len);
            assert!(private.open(&path).unwrap()[..] == all[offset..offset + len]);
        }
    }
    let outside = Snapshot::options().offset(1).len(LARGE).open(&path);
    assert!(matches!(outside, Err(Error::OutOfBounds { .. })));
    let limited = Snapshot::options().size_limit(LARGE as u64 - 1).open(&path);
    assert!(matches!(limited, Err(Error::TooLarge { .. })));
    // Nothing is copied.
    let options = Snapshot::options().copy_limit(0).memory_limit(0);
    assert!(options.require_mapping(true).open(&path).unwrap()[..] == all[..]);
    let mut done = 0;
    let populated = Snapshot::options().populate(true);
    let populated = populated.progress(|n, _| done = n).open(&path).unwrap();
    assert_eq!(done, LARGE as u64);
    populated.pages().populate(..).unwrap();
    assert!(populated[..] == all[..]);
}

#[test]
fn the_offset_of_a_file_is_moved_as_by_reading() {
    let (_folder, path) = large_file();
    let mut file = File::open(&path).unwrap();
    file.seek(SeekFrom::Start(7)).unwrap();
    let all = Snapshot::from_file(&file).unwrap();
    assert_eq!(file.stream_position().unwrap(), 7);
    let rest = Snapshot::from_fd(&file).unwrap();
    assert_eq!(file.stream_position().unwrap(), LARGE as u64);
    assert_eq!(
        (all.backing(), rest.backing()),
        (Backing::Locked, Backing::Locked)
    );
    assert!(rest[..] == all[7..]);
    // The lock is not that of the caller's handle.
    drop(file);
    assert_eq!(code(open_for_writing(&path)), Some(SHARING_VIOLATION));
}

#[test]
fn a_lease_that_is_not_wanted_locks_nothing() {
    let (_folder, path) = large_file();
    let small = path.with_extension("small");
    fs::write(&small, b"small").unwrap();
    let read = Snapshot::options().lease(false).open(&path).unwrap();
    assert_eq!(read.reason(), Some(Reason::NotAsked));
    let small_one = Snapshot::open(&small).unwrap();
    fs::write(&path, b"changed").unwrap();
    fs::write(&small, b"other").unwrap();
    assert!(read[..] == bytes()[..] && small_one[..] == b"small"[..]);
}

#[test]
fn stores_into_private_bytes_do_not_reach_the_file() {
    let (_folder, path) = large_file();
    let mut private = Private::open(&path).unwrap();
    assert_eq!(private.backing(), Backing::Locked);
    private[1 << 20] ^= 0xff;
    private[LARGE - 1] ^= 0xff;
    assert_eq!(code(open_for_writing(&path)), Some(SHARING_VIOLATION));
    assert_eq!(fs::read(&path).unwrap(), bytes());
    assert_eq!(private[1 << 20], bytes()[1 << 20] ^ 0xff);
    drop(private);
    fs::remove_file(&path).unwrap();
}

/// Two processes open a file again and again, one as a snapshot, the other to write all of it with one byte. No snapshot
/// sees two.
#[test]
fn a_writer_and_a_reader_that_fight_over_a_file_see_it_whole() {
    const NAME: &str = "snapshot::a_writer_and_a_reader_that_fight_over_a_file_see_it_whole";
    const ROUNDS: u8 = 20;
    if let Some(path) = child_path() {
        for round in 1..=ROUNDS {
            let mut file = loop {
                match open_for_writing(&path) {
                    Ok(file) => break file,
                    Err(e) => assert_eq!(e.raw_os_error(), Some(SHARING_VIOLATION)),
                }
            };
            file.write_all(&vec![round; LARGE]).unwrap();
        }
        return;
    }
    let (_folder, path) = large_file();
    fs::write(&path, vec![0; LARGE]).unwrap();
    let mut writer = spawn(NAME, &path);
    let (mut locked, mut last) = (0, 0);
    while last < ROUNDS {
        let options = Snapshot::options().require_mapping(true);
        let Ok(snapshot) = options.open(&path) else {
            continue;
        };
        locked += 1;
        last = snapshot[0];
        assert!(snapshot.iter().all(|&byte| byte == last), "{last}");
    }
    assert!(locked > 0 && writer.wait().unwrap().success());
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let text = std::thread::spawn(move || writer.write_all(&bytes()));
    let mut first = [0];
    reader.read_exact(&mut first).unwrap();
    let file = File::from(std::os::windows::io::OwnedHandle::from(reader));
    let rest = Snapshot::from_fd(&file).unwrap();
    text.join().unwrap().unwrap();
    assert_eq!(rest.reason(), Some(Reason::Stream));
    assert!(rest[..] == bytes()[1..]);
}
