//! A full disk is an error of `open` or `resize`, and never a signal: holes and shared blocks get their own first.

use crate::support::bytes::assert_same;
use crate::support::child::scenario;
use crate::support::exclusive::{any_system, open, system, system_with, systems};
use crate::support::kernel::{mapping_at, page_size, status};
use crate::support::refuse::{Verdict, intercept, refuse};
use crate::support::{file_with, limit_file_sizes};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use stillmap::{Error, Exclusive};

/// Takes all space that is left.
fn fill(dir: &Path) {
    for (name, step) in [("rest", 1 << 16), ("small", 512)] {
        let Ok(mut file) = File::create(dir.join(name)) else {
            return;
        };
        while file.write_all(&[7; 1 << 16][..step]).is_ok() {}
        let _ = file.sync_all();
    }
}

fn full_disk(kind: &str, size: u64) {
    let Some(system) = system(kind, size) else {
        return;
    };
    let path = system.path().join("sparse");
    let sparse = File::create(&path).unwrap();
    sparse.set_len(8 << 20).unwrap();
    drop(sparse);
    // With room, the holes get blocks, and then no store can fail.
    let mut file = open(&path);
    fill(system.path());
    file.fill(9);
    let error = file.resize(16 << 20).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{kind}: {error}");
    assert_eq!(
        error.to_string(),
        format!("fallocate failed on {}", path.display())
    );
    assert_eq!(file.len(), 8 << 20);
    file.fill(8);
    file.close().unwrap_or_else(|e| panic!("{kind}: {e}"));
    assert!(fs::read(&path).unwrap() == vec![8; 8 << 20], "{kind}");
    // Without room it is not opened.
    fs::remove_file(&path).unwrap();
    File::create(&path).unwrap().set_len(size as _).unwrap();
    let error = Exclusive::open(&path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{kind}: {error}");
}

#[test]
fn of_ext4() {
    scenario!(|| full_disk("ext4", 48 << 20)).succeed();
}

#[test]
fn of_xfs() {
    scenario!(|| full_disk("xfs", 300 << 20)).succeed();
}

/// Before: the addresses for the longer file stayed taken, twice: for its bytes, and for a copy of them.
#[test]
#[cfg(target_pointer_width = "64")]
fn a_resize_for_which_there_is_no_room_takes_no_addresses() {
    scenario!(|| {
        let Some(system) = system("ext4", 48 << 20) else {
            return;
        };
        let mut file = open(file_with(system.path(), "file", &[1; 5000]));
        let before = status("VmSize");
        file.resize(1 << 40).unwrap_err();
        // The kernel refuses it later, too.
        refuse(libc::SYS_fallocate, libc::EDQUOT);
        let error = file.resize(16 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{error}");
        let start = file.as_ptr() as usize;
        let end = start + 5000_usize.next_multiple_of(page_size());
        assert_eq!(mapping_at(start).unwrap().range, start..end);
        assert!(status("VmSize") - before < 1 << 30);
        assert_eq!(file[..], [1; 5000]);
        file.close().unwrap();
    })
    .succeed();
}

#[test]
fn the_limit_on_file_sizes_is_an_error_too() {
    scenario!(|| {
        let Some(system) = system("ext4", 48 << 20) else {
            return;
        };
        let mut file = open(file_with(system.path(), "file", &[1; 5000]));
        limit_file_sizes(1 << 20);
        let error = file.resize(2 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
        assert_eq!(file[..], [1; 5000]);
        file.resize(1 << 20).unwrap();
        file.close().unwrap();
    })
    .succeed();
}

/// Before: an `Exclusive` for which there were no addresses left the holes filled.
#[test]
fn without_room_for_the_mapping_holes_stay_holes() {
    scenario!(|| {
        for (kind, system) in systems() {
            let path = system.path().join("sparse");
            File::create(&path).unwrap().set_len(8 << 20).unwrap();
            let blocks = || fs::metadata(&path).unwrap().blocks();
            let before = blocks();
            let too_long = Exclusive::options().reserve(isize::MAX.unsigned_abs());
            let error = loop {
                match too_long.open(&path) {
                    Err(Error::Busy { .. }) => {}
                    opened => break opened.unwrap_err(),
                }
            };
            assert!(matches!(error, Error::TooLarge { .. }), "{kind}: {error}");
            assert_eq!(blocks(), before, "{kind}");
        }
    })
    .succeed();
}

/// Another process wants the file while its last hole is filled. Before: the holes stayed filled.
#[test]
fn holes_stay_holes_if_the_file_is_wanted_before_it_is_open() {
    scenario!(|| {
        let Some(system) = any_system() else {
            return;
        };
        let path = system.path().join("sparse");
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let blocks = || fs::metadata(&path).unwrap().blocks();
        let before = blocks();
        let wanted = path.clone();
        intercept(libc::SYS_fallocate, (0, 0, 0), move |_| {
            let mut open = File::options();
            let refused = open.read(true).custom_flags(libc::O_NONBLOCK).open(&wanted);
            assert!(refused.is_err());
            Verdict::Continue
        });
        let error = Exclusive::try_open(&path).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        assert_eq!(blocks(), before);
    })
    .succeed();
}

#[test]
fn bytes_that_lie_in_the_inode_get_a_block_first() {
    scenario!(|| {
        let options = ["-O", "inline_data", "-I", "256"];
        let Some(system) = system_with("ext4", 48 << 20, &options) else {
            return;
        };
        let (path, other) = (system.path().join("file"), system.path().join("other"));
        for path in [&path, &other] {
            fs::write(path, [1; 60]).unwrap();
            File::open(path).unwrap().sync_all().unwrap();
            // Less than a block.
            assert!(fs::metadata(path).unwrap().blocks() * 512 < 4096);
        }
        let mut file = open(&path);
        fill(system.path());
        file.fill(2);
        file.close().unwrap();
        assert_eq!(fs::read(&path).unwrap(), [2; 60]);
        let error = Exclusive::open(&other).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    })
    .succeed();
}

#[test]
fn blocks_that_a_clone_shares_get_a_copy_first() {
    scenario!(|| {
        let Some(system) = system("xfs", 300 << 20) else {
            return;
        };
        let path = system.path().join("file");
        fs::write(&path, vec![1; 8 << 20]).unwrap();
        let (from, to) = (File::open(&path).unwrap(), system.path().join("clone"));
        let clone = File::create(&to).unwrap();
        // SAFETY: takes plain numbers.
        let cloned = unsafe { libc::ioctl(clone.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) };
        assert_eq!(cloned, 0, "{}", std::io::Error::last_os_error());
        drop((from, clone));
        let mut file = open(&path);
        fill(system.path());
        file.fill(2);
        file.close().unwrap();
        assert!(fs::read(&path).unwrap() == vec![2; 8 << 20]);
        assert!(fs::read(&to).unwrap() == vec![1; 8 << 20]);
    })
    .succeed();
}

/// Attack "holes that are none": the kernel lists bytes that have no blocks yet (delayed allocation) as holes, and they
/// were filled with zeros.
#[test]
fn bytes_that_were_not_written_back_yet_are_no_holes() {
    for options in [&["-O", "^extent,^64bit"][..], &[]] {
        let Some(system) = system_with("ext4", 64 << 20, options) else {
            return;
        };
        let mut model = vec![0; 8 << 20];
        let path = system.path().join("sparse");
        let sparse = File::create(&path).unwrap();
        sparse.set_len(model.len() as u64).unwrap();
        for at in (100..model.len()).step_by(1 << 20) {
            sparse.write_all_at(b"bytes", at as u64).unwrap();
            model[at..at + 5].copy_from_slice(b"bytes");
        }
        drop(sparse);
        let file = open(&path);
        assert_same(&file, &model, "the bytes of the file");
    }
}
