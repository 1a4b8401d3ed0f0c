//! A loss of power right after `commit` or `flush` returned: the promised bytes are there.
//!
//! The image under a mounted file system is copied and the copy mounted: the kernel replays its journal as after a
//! crash. What was in the page cache alone is not in the copy.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use stillmap::{Draft, Exclusive, Replace};
use support::bytes::{assert_same, pattern};
use support::disk::unmount;
use support::exclusive::has_userfaultfd;
use support::kernel::may_write;
use support::temporary::MOUNT;
use support::xattr::{get_xattr, set_xattr};
use support::{is_root, skip, temp_dir};

/// A file system in an image, mounted through the tools of the system; unmounted when dropped.
struct Mounted {
    mount: PathBuf,
    _dir: tempfile::TempDir,
}

impl Mounted {
    fn new(kind: &str, image: &Path) -> Option<Self> {
        let dir = temp_dir();
        let mount = dir.path().join(MOUNT);
        fs::create_dir(&mount).expect("make the mount point");
        // Copies have the identity of their original, which xfs refuses otherwise.
        let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
        let mounted = Command::new("mount")
            .args(["-t", kind, "-o", options])
            .args([image, &mount])
            .output();
        let refusal = match mounted {
            Ok(mounted) if mounted.status.success() => {
                return Some(Mounted { mount, _dir: dir });
            }
            Ok(mounted) => String::from_utf8_lossy(&mounted.stderr).into_owned(),
            Err(error) => format!("mount: {error}"),
        };
        skip(format_args!("no {kind}: {refusal}"));
        None
    }

    fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.mount);
    }
}

/// What happens on a file system, and what must be there after the power was lost at its end, when what it gave was still
/// alive.
fn after_power_loss<T>(act: impl Fn(&Path) -> T, check: impl Fn(&str, &Path)) {
    if !is_root() {
        return skip("mounting needs root");
    }
    for (kind, size) in [("ext4", 48 << 20), ("xfs", 300 << 20)] {
        if !may_write(size) {
            continue;
        }
        let dir = temp_dir();
        let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
        fs::File::create(&image).unwrap().set_len(size).unwrap();
        let force = if kind == "xfs" { "-f" } else { "-F" };
        let made = Command::new(format!("mkfs.{kind}"))
            .args([force, "-q"])
            .arg(&image)
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            skip(format_args!("no mkfs.{kind}"));
            continue;
        }
        let Some(live) = Mounted::new(kind, &image) else {
            continue;
        };
        let alive = act(live.path());
        // Sparse, so that little is copied. The loop device writes to the page cache of the image, which is read here.
        let copied = Command::new("cp")
            .arg("--sparse=always")
            .args([&image, &copy])
            .status();
        assert!(copied.unwrap().success());
        let Some(after) = Mounted::new(kind, &copy) else {
            continue;
        };
        check(kind, after.path());
        drop((after, alive));
        drop(live);
    }
}

#[test]
fn a_committed_draft_is_there_and_whole() {
    let (old, new) = (pattern(1, 100_000), pattern(2, 3 << 20));
    after_power_loss(
        |dir| {
            fs::write(dir.join("replaced"), &old).unwrap();
            fs::set_permissions(dir.join("replaced"), PermissionsExt::from_mode(0o604)).unwrap();
            set_xattr(&dir.join("replaced"), "user.note", b"of the owner").unwrap();
            for (name, limit) in [("replaced", u64::MAX), ("new", 0)] {
                let options = Draft::options().memory_limit(limit);
                let mut draft = options.create(dir.join(name), new.len()).unwrap();
                draft.copy_from_slice(&new);
                draft.commit().unwrap();
            }
        },
        |kind, dir| {
            for name in ["replaced", "new"] {
                let bytes =
                    fs::read(dir.join(name)).unwrap_or_else(|e| panic!("{kind}, {name}: {e}"));
                assert_same(&bytes, &new, format_args!("{kind}, {name}"));
            }
            let replaced = dir.join("replaced");
            let mode = fs::metadata(&replaced).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o604, "{kind}");
            let note = get_xattr(&replaced, "user.note");
            assert_eq!(note.as_deref(), Some(&b"of the owner"[..]), "{kind}");
            let others = fs::read_dir(dir)
                .unwrap()
                .map(|entry| entry.unwrap().file_name());
            let others: Vec<_> = others.filter(|name| name != "lost+found").collect();
            assert_eq!(others.len(), 2, "{kind}: {others:?}");
        },
    );
}

#[test]
fn a_file_written_in_place_is_there_with_its_rights() {
    let (old, new) = (pattern(1, 100_000), pattern(2, 70_000));
    after_power_loss(
        |dir| {
            let path = dir.join("file");
            for replace in [Replace::InPlace, Replace::RenameOrInPlace] {
                fs::write(&path, &old).unwrap();
                fs::set_permissions(&path, PermissionsExt::from_mode(0o604)).unwrap();
                let options = Draft::options().replace(replace);
                let mut draft = options.create(&path, new.len()).unwrap();
                draft.copy_from_slice(&new);
                draft.commit().unwrap();
                fs::rename(&path, dir.join(format!("{replace:?}"))).unwrap();
                fs::File::open(dir).unwrap().sync_all().unwrap();
            }
        },
        |kind, dir| {
            for replace in [Replace::InPlace, Replace::RenameOrInPlace] {
                let path = dir.join(format!("{replace:?}"));
                assert_same(&fs::read(&path).unwrap(), &new, kind);
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o7777, 0o604, "{kind}, {replace:?}");
            }
        },
    );
}

#[test]
fn a_draft_that_was_not_committed_left_the_old_file() {
    let old = pattern(1, 100_000);
    after_power_loss(
        |dir| {
            fs::write(dir.join("file"), &old).unwrap();
            fs::File::open(dir.join("file"))
                .unwrap()
                .sync_all()
                .unwrap();
            fs::File::open(dir).unwrap().sync_all().unwrap();
            let mut draft = Draft::options()
                .memory_limit(0)
                .create(dir.join("file"), 9000)
                .unwrap();
            draft.fill(7);
            draft
        },
        |kind, dir| assert_same(&fs::read(dir.join("file")).unwrap(), &old, kind),
    );
}

#[test]
fn what_was_flushed_is_there() {
    if !has_userfaultfd() {
        return;
    }
    let old = pattern(1, 2 << 20);
    let mut new = old.clone();
    for page in [0, 7, 100, 511] {
        new[page * 4096 + 5] ^= 0xff;
    }
    new.extend([9; 5000]);
    after_power_loss(
        |dir| {
            let path = dir.join("file");
            fs::write(&path, &old).unwrap();
            fs::File::open(&path).unwrap().sync_all().unwrap();
            fs::File::open(dir).unwrap().sync_all().unwrap();
            let mut file = Exclusive::open(&path).unwrap();
            file.resize(new.len()).unwrap();
            for page in [0, 7, 100, 511] {
                file[page * 4096 + 5] ^= 0xff;
            }
            file[old.len()..].fill(9);
            file.flush().unwrap();
            // Not promised any more: a store after the flush.
            file[4096 * 50] ^= 0xff;
            file
        },
        |kind, dir| {
            let mut bytes = fs::read(dir.join("file")).unwrap();
            bytes[4096 * 50] = new[4096 * 50];
            assert_same(&bytes, &new, kind);
        },
    );
}

#[test]
fn a_flushed_range_is_there() {
    if !has_userfaultfd() {
        return;
    }
    let old = pattern(1, 1 << 20);
    after_power_loss(
        |dir| {
            let path = dir.join("file");
            fs::write(&path, &old).unwrap();
            fs::File::open(&path).unwrap().sync_all().unwrap();
            fs::File::open(dir).unwrap().sync_all().unwrap();
            let mut file = Exclusive::open(&path).unwrap();
            file[10_000..20_000].fill(7);
            file.flush_range(10_000..20_000).unwrap();
            file
        },
        |kind, dir| {
            let bytes = fs::read(dir.join("file")).unwrap();
            assert_eq!(bytes[10_000..20_000], [7; 10_000], "{kind}");
            assert_same(&bytes[..10_000], &old[..10_000], kind);
        },
    );
}
