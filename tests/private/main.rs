//! `Private`: bytes that the program changes; the file stays, and changes of the file are not seen.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

use proptest::prelude::*;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use stillmap::{Backing, Error, Private};
use support::bytes::{assert_same, pattern};
use support::disk::LoopFs;
use support::random::runner;
use support::{file_with, kernel, temp_dir};

const LENGTHS: [usize; 9] = [
    0,
    1,
    4095,
    4096,
    4097,
    256 << 10,
    (256 << 10) + 1,
    1_000_003,
    5 << 20,
];

/// Changes every byte here and in the file; neither sees the other.
fn keeps_to_itself(path: &std::path::Path, bytes: &[u8], backing: Backing) {
    let mut private = Private::open(path).unwrap();
    assert_same(&private, bytes, "as opened");
    let small = bytes.len() <= 256 << 10;
    let expected = if small { Backing::Memory } else { backing };
    assert_eq!(private.backing(), expected, "{} bytes", bytes.len());
    for byte in private.iter_mut().step_by(1000) {
        *byte = !*byte;
    }
    let mut model = bytes.to_vec();
    for byte in model.iter_mut().step_by(1000) {
        *byte = !*byte;
    }
    assert_same(&fs::read(path).unwrap(), bytes, "the file");
    // Others overwrite and truncate the file: pages touched here and pages never touched here stay.
    let mut other = File::options().write(true).open(path).unwrap();
    other.write_all(&vec![0xee; bytes.len()]).unwrap();
    assert_same(&private, &model, "after the file was overwritten");
    other.set_len(0).unwrap();
    other.set_len(bytes.len() as u64).unwrap();
    assert_same(&private, &model, "after the file was truncated");
    fs::remove_file(path).unwrap();
    assert_same(&private, &model, "after the file was removed");
    private.fill(1);
    assert!(private.iter().all(|&byte| byte == 1));
}

#[test]
fn changes_here_and_changes_there_never_meet() {
    let systems = [
        (LoopFs::new("ext4", 64 << 20), Backing::Memory),
        (LoopFs::new("xfs", 300 << 20), Backing::Cloned),
        (LoopFs::new("btrfs", 128 << 20), Backing::Cloned),
        (LoopFs::new("tmpfs", 64 << 20), Backing::Memory),
        (LoopFs::new("overlay", 0), Backing::Memory),
    ];
    let here = temp_dir();
    for len in LENGTHS {
        let bytes = pattern(len as u64, len);
        let path = file_with(here.path(), "file", &bytes);
        // The file system of the temporary directory may be any; other tests check the backing.
        let backing = Private::open(&path).unwrap().backing();
        keeps_to_itself(&path, &bytes, backing);
        for (system, backing) in &systems {
            if let Some(system) = system {
                let path = file_with(system.path(), "file", &bytes);
                keeps_to_itself(&path, &bytes, *backing);
            }
        }
    }
}

#[test]
fn a_sealed_memfd_is_mapped_and_stays_as_it_is() {
    // SAFETY: a C string; the descriptor is new, and no other code has it.
    let mut file = unsafe {
        File::from_raw_fd(libc::memfd_create(
            c"private".as_ptr(),
            libc::MFD_ALLOW_SEALING,
        ))
    };
    let bytes = pattern(7, 1 << 20);
    file.write_all(&bytes).unwrap();
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK;
    // SAFETY: plain numbers.
    assert_eq!(
        unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) },
        0
    );
    file.seek(SeekFrom::Start(5000)).unwrap();
    let mut private = Private::from_fd(&file).unwrap();
    assert_eq!(private.backing(), Backing::Sealed);
    assert_same(&private, &bytes[5000..], "from the offset on");
    assert_eq!(file.stream_position().unwrap(), 1 << 20);
    private.fill(0);
    file.rewind().unwrap();
    let mut now = Vec::new();
    file.read_to_end(&mut now).unwrap();
    assert_same(&now, &bytes, "the memfd");
}

#[test]
fn pages_are_ours_when_they_are_stored_to() {
    let Some(system) = LoopFs::new("xfs", 300 << 20) else {
        return;
    };
    let path = file_with(system.path(), "file", &pattern(1, 16 << 20));
    let mut private = Private::open(&path).unwrap();
    let start = private.as_ptr() as usize;
    let range = start..start + private.len();
    assert_eq!(kernel::smaps(range.clone(), "Private_Dirty"), 0);
    private[0] = 1;
    private[8 << 20] = 1;
    assert_eq!(
        kernel::smaps(range, "Private_Dirty"),
        2 * kernel::page_size()
    );
}

#[test]
fn it_starts_at_the_offset_of_a_descriptor_and_leaves_it_at_the_end() {
    let dir = temp_dir();
    let bytes = pattern(3, 600_000);
    let path = file_with(dir.path(), "file", &bytes);
    for offset in [0, 1, 4096, 300_000, 599_999, 600_000] {
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(offset)).unwrap();
        let private = Private::from_fd(&file).unwrap();
        assert_same(&private, &bytes[offset as usize..], offset);
        assert_eq!(file.stream_position().unwrap(), 600_000);
    }
}

#[test]
fn what_has_no_size_is_read_to_its_end() {
    let (reader, writer) = support::pipe::pipe();
    let bytes = pattern(9, 3 << 20);
    let feeder = support::pipe::feed(writer, bytes.clone());
    let mut private = Private::from_fd(&reader).unwrap();
    feeder.join().unwrap();
    assert_same(&private, &bytes, "a pipe");
    private.fill(0);
    let proc = Private::open("/proc/version").unwrap();
    assert_same(&proc, &fs::read("/proc/version").unwrap(), "/proc/version");
    assert!(Private::open("/dev/null").unwrap().is_empty());
}

#[test]
fn what_cannot_be_opened_is_an_error() {
    assert!(matches!(Private::open("/"), Err(Error::IsDirectory { .. })));
    let error = Private::open("/no/such/file").unwrap_err();
    assert_eq!(error.to_string(), "open failed on /no/such/file");
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", &pattern(1, 1 << 20));
    let file = File::options().write(true).open(path).unwrap();
    let error = Private::from_fd(&file).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error}");
}

#[test]
fn it_is_a_vector_of_the_file() {
    let dir = temp_dir();
    let xfs = LoopFs::new("xfs", 300 << 20);
    let on_xfs = xfs.as_ref().map_or(dir.path(), LoopFs::path);
    let stores = prop::collection::vec((any::<usize>(), 0..9000_usize, any::<u8>()), 0..20);
    let cases = (any::<u64>(), 0..900_000_usize, stores, any::<bool>());
    let ran = runner(100).run(&cases, |(seed, len, stores, clone)| {
        let mut model = pattern(seed, len);
        let folder = if clone { on_xfs } else { dir.path() };
        let path = file_with(folder, "file", &model);
        let mut private = Private::open(&path).unwrap();
        for (at, len, byte) in stores {
            let at = at % (model.len() + 1);
            let end = model.len().min(at + len);
            model[at..end].fill(byte);
            private[at..end].fill(byte);
        }
        assert_same(&private, &model, "the copy");
        assert_same(&fs::read(&path).unwrap(), &pattern(seed, len), "the file");
        Ok(())
    });
    ran.unwrap();
}

/// Case: a file larger than the memory of the machine was ENOMEM, since the kernel had to promise all of it.
#[test]
fn a_sparse_file_larger_than_memory_is_mapped() {
    let size = 64_u64 << 30;
    for (kind, backing) in [("xfs", Backing::Cloned), ("ext4", Backing::Disk)] {
        let Some(system) = LoopFs::new(kind, 300 << 20)
            .filter(|_| kernel::may_write(size) && kernel::may_map(size))
        else {
            continue;
        };
        let path = file_with(system.path(), "sparse", b"head");
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(size)
            .unwrap();
        let mut private = Private::open(&path).unwrap();
        assert_eq!(private.backing(), backing);
        assert!(private.len() as u64 == size && private.starts_with(b"head\0"));
        let last = private.len() - 1;
        private[last] = 7;
        assert_eq!((private[last], private[last - 1]), (7, 0));
        let window = Private::options().offset(size - 5).len(5);
        assert_same(
            &window.open(&path).unwrap(),
            &[0; 5],
            "a window of the file",
        );
    }
}

#[test]
fn windows_and_limits() {
    let dir = temp_dir();
    for len in [5000, 900_000] {
        let bytes = pattern(4, len);
        let path = file_with(dir.path(), "file", &bytes);
        let window = Private::options().offset(77).len(len - 100);
        assert_same(&window.open(&path).unwrap(), &bytes[77..len - 23], len);
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(7)).unwrap();
        assert_same(&window.from_fd(&file).unwrap(), &bytes[84..len - 16], len);
        assert_eq!(file.stream_position().unwrap(), len as u64 - 16);
        assert_same(&window.from_file(&file).unwrap(), &bytes[77..len - 23], len);
        let outside = Private::options().offset(77).len(len).open(&path);
        assert!(matches!(outside, Err(Error::OutOfBounds { .. })));
        let over = Private::options().size_limit(len as u64 - 1).open(&path);
        assert!(matches!(over, Err(Error::TooLarge { .. })));
        let over = Private::options().memory_limit(1000).open(&path).unwrap();
        assert_same(&over, &bytes, "more than the memory limit");
    }
}
