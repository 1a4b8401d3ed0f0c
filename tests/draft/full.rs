//! A full disk is an error of `create` or `resize`: never a signal, never a trace.

use crate::support::child::scenario;
use crate::support::disk::{LoopFs, free};
use crate::support::kernel::page_size;
use crate::support::refuse::{Verdict, intercept};
use crate::support::user::as_user;
use crate::support::{limit_file_sizes, skip, temp_dir};
use crate::{can_map, draft_of, names, stores};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::AtomicU8;
use stillmap::{Draft, Exclusive, Replace, Shared, Snapshot};

/// Fills a file system until nothing goes in any more, and leaves `free` bytes.
fn fill(dir: &Path, free: u64) {
    let ballast = fs::File::create(dir.join("ballast")).unwrap();
    let mut len = 0;
    let mut step = 1 << 20;
    while step >= 4096 {
        // SAFETY: plain numbers.
        let done =
            unsafe { libc::fallocate64(std::os::fd::AsRawFd::as_raw_fd(&ballast), 0, len, step) };
        match done {
            0 => len += step,
            _ => step /= 2,
        }
    }
    ballast.set_len(len as u64 - free).unwrap();
    ballast.sync_all().unwrap();
}

fn full_disk(kind: &str) {
    // The nodes of btrfs are as large as pages.
    let unit = if kind == "btrfs" { page_size() } else { 4096 };
    let Some(disk) = LoopFs::new(kind, (16 << 10) * unit as u64) else {
        return;
    };
    let path = disk.path().join("file");
    fs::write(&path, b"old").unwrap();
    // A full disk has no room for the name of a new file.
    let rest = fs::File::create(disk.path().join("rest")).unwrap();
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
        let block = vec![0_u8; 64 << 10];
        let mut taken = 0;
        while rest.write_all_at(&block, taken).is_ok() {
            taken += block.len() as u64;
        }
        let _ = rest.sync_all();
        draft.fill(9);
        let committed = draft.commit();
        rest.set_len(0).unwrap();
        if let Err(failed) = committed {
            // A btrfs that is as full as this may have no room for a name (seen with blocks of 64 KiB). No byte is lost.
            let errno = failed.error.raw_os_error();
            assert_eq!((kind, errno), ("btrfs", Some(libc::ENOSPC)), "{failed}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            wait_for_free(disk.path(), 1 << 20, kind);
            failed.draft.commit().unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), vec![9; 1 << 20], "{kind}");
        assert_eq!(names(disk.path()), before);
        wait_for_free(disk.path(), 64 << 10, kind);
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

/// Waits until so much is free: xfs and btrfs free the blocks of a removed file a little later.
fn wait_for_free(dir: &Path, bytes: u64, what: impl std::fmt::Display) {
    let root = fs::File::open(dir).unwrap();
    for _ in 0..1000 {
        // SAFETY: takes a descriptor.
        unsafe { libc::syncfs(std::os::fd::AsRawFd::as_raw_fd(&root)) };
        if free(dir) >= bytes {
            return;
        }
        std::thread::yield_now();
    }
    panic!("{what}: {} of {bytes} bytes are free", free(dir));
}

/// One byte more than the disk has; a file with holes that is far longer than it.
fn too_much_by_little_or_by_far(kind: &str) {
    let Some(disk) = LoopFs::new(kind, 64 << 20) else {
        return;
    };
    let path = disk.path().join("file");
    fs::write(&path, b"old").unwrap();
    let file = fs::File::options().read(true).write(true).open(&path);
    let file = file.unwrap();
    file.sync_all().unwrap();
    let before = free(disk.path());
    for replace in [Replace::Rename, Replace::InPlace] {
        let options = Draft::options().replace(replace);
        let mut failures = Vec::new();
        match options.create(&path, before as usize + 1) {
            // In place it is reserved by `commit`, and the file has a block already.
            Ok(_) if replace == Replace::InPlace => {
                let draft = options.create(&path, before as usize + (128 << 10));
                failures.push(draft.unwrap().commit().unwrap_err().error);
            }
            other => failures.push(other.map(drop).unwrap_err()),
        }
        // In place nothing is sparse. More than there is would take too long, so the disk is filled first.
        if replace == Replace::Rename {
            // User-mode Linux has addresses for half a terabyte.
            let len = if cfg!(target_pointer_width = "64") {
                1 << 38
            } else {
                1 << 24
            };
            let mut giant = options.sparse(true).create(&path, len).unwrap();
            fill(disk.path(), 1 << 20);
            giant[len / 2..][..4 << 20].fill(7);
            failures.push(giant.commit().unwrap_err().error);
            fs::remove_file(disk.path().join("ballast")).unwrap();
        }
        for error in failures {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{kind}: {error}");
        }
        assert_eq!(fs::read(&path).unwrap(), b"old", "{kind}, {replace:?}");
        wait_for_free(disk.path(), before, format_args!("{kind}, {replace:?}"));
    }
    for len in [before as usize + 1, before as usize * 2] {
        let shared = Shared::<[AtomicU8]>::create_slice(disk.path().join("shared"), len);
        let error = shared.map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{kind}: {error}");
        // SAFETY: this test alone knows the file.
        let mut grows = unsafe { Exclusive::options().map_unguarded(&file) }.unwrap();
        // It has a block already.
        let error = grows.resize(len + (8 << 10)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{kind}: {error}");
        drop(grows);
        assert_eq!(fs::read(&path).unwrap(), b"old", "{kind}");
        assert!(!disk.path().join("shared").exists(), "{kind}");
        wait_for_free(disk.path(), before, kind);
    }
}

#[test]
fn afterwards_as_much_is_free_as_before() {
    for kind in ["ext4", "xfs", "btrfs", "tmpfs"] {
        let mut child = scenario!(|| {
            too_much_by_little_or_by_far(crate::support::child::argument("KIND").to_str().unwrap())
        });
        child.argument("KIND", kind).succeed();
    }
}

/// A directory with a quota of `bytes`, and the user that it is for; `None`, after saying why, where the kernel or the
/// tools have none.
fn with_quota(kind: &str, bytes: u64) -> Option<(LoopFs, std::path::PathBuf, u32)> {
    let tool = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        let done = output.is_ok_and(|output| output.status.success());
        if !done {
            skip(format_args!("no quota on {kind}: {program} {arguments:?}"));
        }
        done
    };
    let options: &[&str] = if kind == "ext4" {
        &["-O", "quota"]
    } else {
        &[]
    };
    let disk = LoopFs::with_options(kind, 256 << 20, options)?;
    let (root, dir) = (
        disk.path().to_str()?.to_owned(),
        disk.path().join("limited"),
    );
    let (name, limit) = (dir.to_str()?.to_owned(), bytes.to_string());
    let blocks = (bytes >> 10).to_string();
    let user = 2001;
    let is_set = if kind == "btrfs" {
        tool("btrfs", &["quota", "enable", &root])
            && tool("btrfs", &["subvolume", "create", &name])
            && tool("btrfs", &["qgroup", "limit", &limit, &name])
    } else {
        fs::create_dir(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(user), Some(user)).unwrap();
        tool("quotaon", &["-u", &root])
            && tool(
                "setquota",
                &["-u", &user.to_string(), "0", &blocks, "0", "0", &root],
            )
    };
    is_set.then_some((disk, dir, if kind == "btrfs" { 0 } else { user }))
}

#[test]
fn of_a_quota() {
    scenario!(|| {
        for kind in ["btrfs", "ext4"] {
            let Some((disk, dir, user)) = with_quota(kind, 16 << 20) else {
                continue;
            };
            let path = dir.join("file");
            let before = free(disk.path());
            assert!(as_user(user, user, || {
                draft_of(Draft::options(), &path, b"old")
                    .unwrap()
                    .commit()
                    .unwrap();
                for options in [Draft::options(), Draft::options().memory_limit(0)] {
                    let error = match options.create(&path, 64 << 20) {
                        Err(stillmap::Error::TooLarge { .. }) => continue,
                        other => other.map(drop).unwrap_err(),
                    };
                    assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{kind}: {error}");
                }
                let mut grows = draft_of(Draft::options(), &path, &[7; 100]).unwrap();
                let error = grows.resize(64 << 20).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{kind}: {error}");
                assert_eq!(grows[..], [7; 100]);
                grows.commit().unwrap();
                let in_place = Draft::options().replace(Replace::InPlace);
                let failed = in_place.create(&path, 64 << 20).unwrap().commit();
                let error = failed.unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{kind}: {error}");
                fs::read(&path).unwrap() == [7; 100]
            }));
            assert_eq!(names(&dir), ["file"], "{kind}");
            wait_for_free(disk.path(), before - (1 << 20), kind);
        }
    })
    .succeed();
}

/// Files with holes, by name: the size, and the start of a megabyte that the owner has reserved.
const WITH_HOLES: [(&str, u64, Option<u64>); 4] = [
    ("short", 3, None),
    ("with holes", 64 << 20, None),
    ("with reserved holes", 64 << 20, Some(2 << 20)),
    (RESERVED_BEHIND_ITS_END, 4 << 20, Some(5 << 20)),
];
const RESERVED_BEHIND_ITS_END: &str = "reserved behind its end";

fn make_file_with_holes(path: &Path, size: u64, reserved: Option<u64>) {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for at in (0..size).step_by(8 << 20) {
        file.write_all_at(b"x y", at).unwrap();
    }
    if let Some(at) = reserved {
        reserve(&file, at, 1 << 20);
    }
    file.sync_all().unwrap();
}

/// The blocks of a file, once all of it is on the disk.
fn blocks(path: &Path) -> u64 {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    file.metadata().unwrap().blocks()
}

/// Before: the holes that had been filled stayed filled.
#[test]
fn after_a_quota_has_ended_it_holes_are_holes_again() {
    scenario!(|| {
        for kind in ["btrfs", "ext4"] {
            let Some((_disk, dir, user)) = with_quota(kind, 80 << 20) else {
                continue;
            };
            assert!(as_user(user, user, || {
                for (name, size, reserved) in WITH_HOLES {
                    let path = dir.join(name);
                    make_file_with_holes(&path, size, reserved);
                    let before = (blocks(&path), fs::read(&path).unwrap());
                    let in_place = Draft::options().replace(Replace::InPlace);
                    // The first 64 MiB fit.
                    let draft = in_place.create(&path, 128 << 20).unwrap();
                    let error = draft.commit().unwrap_err().error;
                    assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{kind}: {error}");
                    let shared = Shared::<[AtomicU8]>::create_slice(&path, 128 << 20);
                    let error = shared.map(drop).unwrap_err();
                    assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{kind}: {error}");
                    if kind != "ext4" || name != RESERVED_BEHIND_ITS_END {
                        assert_eq!(blocks(&path), before.0, "{kind}, {name}");
                    }
                    assert!(fs::read(&path).unwrap() == before.1, "{kind}, {name}");
                    fs::remove_file(&path).unwrap();
                }
                true
            }));
        }
    })
    .succeed();
}

/// fallocate(2) fails after it has filled a part, where there is no quota. Before: on ext4, which punches no holes there,
/// what was behind the end stayed.
#[test]
#[cfg_attr(not(target_pointer_width = "64"), ignore = "arguments of 64 bits")]
fn after_a_reservation_has_failed_holes_are_holes_again() {
    for kind in ["ext4", "xfs", "btrfs"] {
        let mut child = scenario!(|| {
            let kind = crate::support::child::argument("KIND");
            let Some(disk) = LoopFs::new(kind.to_str().unwrap(), 300 << 20) else {
                return;
            };
            for (name, size, reserved) in WITH_HOLES {
                let path = disk.path().join(name);
                make_file_with_holes(&path, size, reserved);
                let before = (blocks(&path), fs::read(&path).unwrap());
                crate::support::child::fork(|| {
                    let in_place = Draft::options().replace(Replace::InPlace);
                    let draft = draft_of(in_place, &path, &vec![7; 64 << 20]).unwrap();
                    let filled = path.clone();
                    intercept(libc::SYS_fallocate, (3, u32::MAX, 64 << 20), move |_| {
                        let file = fs::File::options().write(true).open(&filled);
                        reserve(&file.unwrap(), 0, 24 << 20);
                        Verdict::Fail(libc::ENOSPC)
                    });
                    let error = draft.commit().unwrap_err().error;
                    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                })
                .succeed();
                if kind != "ext4" || name != RESERVED_BEHIND_ITS_END {
                    assert_eq!(blocks(&path), before.0, "{kind:?}, {name}");
                }
                assert!(fs::read(&path).unwrap() == before.1, "{kind:?}, {name}");
            }
        });
        child.argument("KIND", kind).succeed();
    }
}

/// The write fails after a part, as on a file system that reserves nothing. Before: the file stayed longer.
#[test]
fn after_a_write_has_failed_the_file_is_as_long_as_before() {
    scenario!(|| {
        for size in [3, 64 << 10, 4 << 20] {
            let dir = temp_dir();
            let path = dir.path().join("file");
            make_file_with_holes(&path, size, None);
            let before = blocks(&path);
            crate::support::child::fork(|| {
                let in_place = Draft::options().replace(Replace::InPlace);
                let draft = draft_of(in_place, &path, &vec![7; 2 << 20]).unwrap();
                let written = path.clone();
                intercept(libc::SYS_pwrite64, (0, 0, 0), move |_| {
                    let mut file = fs::File::options().write(true).open(&written).unwrap();
                    std::io::Write::write_all(&mut file, b"xxx").unwrap();
                    if size == 3 {
                        std::io::Write::write_all(&mut file, &vec![7; 1 << 20]).unwrap();
                    }
                    Verdict::Fail(libc::ENOSPC)
                });
                let failed = draft.commit().unwrap_err();
                assert_eq!(failed.raw_os_error(), Some(libc::ENOSPC), "{failed}");
                assert!(failed.draft[..] == vec![7; 2 << 20]);
            })
            .succeed();
            assert_eq!(fs::metadata(&path).unwrap().len(), size);
            assert!(
                blocks(&path) <= before + 16,
                "{} of {before}",
                blocks(&path)
            );
            assert_eq!(names(dir.path()), ["file"]);
        }
    })
    .succeed();
}

/// fallocate(2), without a change of the length.
fn reserve(file: &fs::File, at: u64, len: u64) {
    let fd = std::os::fd::AsRawFd::as_raw_fd(file);
    let (at, len) = (at as i64, len as i64);
    // SAFETY: plain numbers.
    let done = unsafe { libc::fallocate64(fd, libc::FALLOC_FL_KEEP_SIZE, at, len) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
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

/// What else takes space: `Shared`, a file that grows, copies on disk.
#[test]
fn of_a_quota_for_the_other_types() {
    scenario!(|| {
        const BYTES: usize = 64 << 20;
        let Some((disk, dir, _)) = with_quota("btrfs", 16 << 20) else {
            return;
        };
        let path = crate::support::file_with(&dir, "file", b"old");
        let file = fs::File::options().read(true).write(true).open(&path);
        let file = file.unwrap();
        file.sync_all().unwrap();
        let before = free(disk.path());
        let shared = Shared::<[AtomicU8]>::create_slice(dir.join("shared"), BYTES);
        let error = shared.map(drop).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{error}");
        // SAFETY: this test alone knows the file.
        let mut grows = unsafe { Exclusive::map_unguarded(&file) }.unwrap();
        let error = grows.resize(BYTES).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDQUOT), "{error}");
        assert_eq!(grows[..], *b"old");
        grows.close().unwrap();
        // A copy on disk that does not fit there goes to another disk, and leaves nothing here.
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("TMPDIR", &dir) };
        let (pipe, end) = crate::support::pipe::pipe();
        let feeder = crate::support::pipe::feed(end, vec![7; BYTES]);
        let options = Snapshot::options().memory_limit(1 << 20).spill(true);
        let copy = options.from_fd(&pipe);
        drop(pipe);
        feeder.join().unwrap();
        assert!(copy.unwrap().iter().all(|&byte| byte == 7));
        assert_eq!(names(&dir), ["file"]);
        wait_for_free(disk.path(), before - (1 << 20), "the other types");
    })
    .succeed();
}
