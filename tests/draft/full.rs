//! A full disk is an error of `create` or `resize`: never a signal, never a trace.

use crate::support::child::scenario;
use crate::support::disk::LoopFs;
use crate::support::limit_file_sizes;
use crate::{can_map, draft_of, names, stores};
use std::fs;
use std::path::Path;
use stillmap::Draft;

/// Fills a file system until nothing goes in any more, and leaves `free` bytes.
fn fill(dir: &Path, free: u64) {
    let ballast = fs::File::create(dir.join("ballast")).unwrap();
    let mut len = 0;
    let mut step = 1 << 20;
    while step >= 4096 {
        // SAFETY: plain numbers.
        let done =
            unsafe { libc::fallocate(std::os::fd::AsRawFd::as_raw_fd(&ballast), 0, len, step) };
        match done {
            0 => len += step,
            _ => step /= 2,
        }
    }
    ballast.set_len(len as u64 - free).unwrap();
    ballast.sync_all().unwrap();
}

fn full_disk(kind: &str) {
    let Some(disk) = LoopFs::new(kind, 64 << 20) else {
        return;
    };
    let path = disk.path().join("file");
    fs::write(&path, b"old").unwrap();
    fill(disk.path(), 4 << 20);
    let before = names(disk.path());
    let [memory, sparse, mapped] = [
        Draft::options(),
        Draft::options().sparse(true),
        Draft::options().memory_limit(0),
    ];
    for options in [memory, mapped] {
        let error = Draft::create(&path, 64 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{kind}: {error}");
        assert_eq!(
            error.to_string(),
            format!("fallocate failed on {}", path.display())
        );
        let mut draft = match options.create(&path, 1 << 20) {
            Err(stillmap::Error::TooLarge { limit: 0, .. }) if kind == "btrfs" => continue,
            draft => draft.unwrap(),
        };
        draft.fill(7);
        let error = draft.resize(32 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{kind}: {error}");
        assert_eq!(draft.len(), 1 << 20);
        // What was reserved stays reserved, also when all the rest is taken.
        let rest = fs::File::create(disk.path().join("rest")).unwrap();
        let block = vec![0_u8; 64 << 10];
        while std::io::Write::write_all(&mut &rest, &block).is_ok() {}
        let _ = rest.sync_all();
        draft.fill(9);
        let committed = draft.commit();
        fs::remove_file(disk.path().join("rest")).unwrap();
        committed.unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert_eq!(fs::read(&path).unwrap(), vec![9; 1 << 20], "{kind}");
        assert_eq!(names(disk.path()), before);
        fs::write(&path, b"old").unwrap();
    }
    let draft = draft_of(sparse, &path, &vec![7; 32 << 20]).unwrap();
    let error = draft.commit().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{kind}: {error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(disk.path()), before);
}

#[test]
fn of_ext4() {
    scenario!(|| full_disk("ext4")).succeed();
}

#[test]
fn of_xfs() {
    scenario!(|| full_disk("xfs")).succeed();
}

#[test]
fn of_btrfs() {
    scenario!(|| full_disk("btrfs")).succeed();
}

#[test]
fn of_tmpfs() {
    scenario!(|| full_disk("tmpfs")).succeed();
}

#[test]
fn the_limit_on_file_sizes_is_an_error_too() {
    scenario!(|| {
        let dir = crate::support::temp_dir();
        let path = dir.path().join("file");
        let early = [Draft::options(), Draft::options().sparse(true)];
        let early = early.map(|options| options.create(&path, 2 << 20).unwrap());
        let on_disk = Draft::options().memory_limit(0);
        let mapped = can_map(dir.path()).then(|| on_disk.create(&path, 2 << 20).unwrap());
        let output = fs::File::create(dir.path().join("output")).unwrap();
        let name = format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&output));
        let mut stream = Draft::create(name, 2 << 20).unwrap();
        stream.fill(7);
        // SIGXFSZ keeps its default action, which is to kill.
        limit_file_sizes(1 << 20);
        let too_big = |done: stillmap::Result<()>| {
            let error = done.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
        };
        for options in stores(dir.path()) {
            too_big(options.create(&path, 2 << 20).map(drop));
            let mut draft = draft_of(options, &path, &[7; 5000]).unwrap();
            too_big(draft.resize(2 << 20));
            assert_eq!(draft[..], [7; 5000]);
        }
        for draft in early {
            too_big(draft.commit().map_err(stillmap::Error::from));
        }
        assert!(!path.exists());
        // It was as long as that before, and does not grow.
        mapped.map_or(Ok(()), Draft::commit).unwrap();
        too_big(stream.commit().map_err(stillmap::Error::from));
        assert_eq!(output.metadata().unwrap().len(), 1 << 20);
    })
    .succeed();
}
