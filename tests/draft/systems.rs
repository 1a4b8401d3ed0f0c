//! Each file system that this machine has: the table of docs/durability.md. Printed by
//! `cargo test --test draft systems -- --nocapture`.

use crate::support::child::{report, scenario};
use crate::support::disk::LoopFs;
use crate::support::file_with;
use crate::{draft_of, names};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use stillmap::{Backing, Draft, Error, Exclusive, Replace};

const KINDS: [&str; 10] = [
    "ext4",
    "ext3",
    "ext2",
    "xfs",
    "btrfs",
    "tmpfs",
    "overlay",
    "vfat",
    "exfat-fuse",
    "ntfs-3g",
];

const HEAD: &str = "| | unnamed files | a larger draft | its space is reserved | unchanged blocks are shared | mode is kept \
| hard links | `create_new` | 79 × 議 | `Exclusive` |";

/// The row of a file system for the table; the promises of a draft are asserted.
fn row(kind: &str, dir: &Path) -> String {
    let path = file_with(dir, "file", b"old");
    let before = names(dir);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o640));
    let keeps_modes = mode(&path) == 0o640;

    for replace in [Replace::Rename, Replace::InPlace] {
        let bytes = format!("{replace:?}");
        let mode_before = mode(&path);
        let options = Draft::options().replace(replace);
        let draft = draft_of(options, &path, bytes.as_bytes()).unwrap();
        draft.commit().unwrap_or_else(|e| panic!("{kind}: {e:?}"));
        assert_eq!(fs::read(&path).unwrap(), bytes.as_bytes(), "{kind}");
        assert_eq!(mode(&path), mode_before, "{kind}");
    }
    assert_eq!(names(dir), before, "{kind}");
    assert_one_of_two_new_files_wins(kind, &dir.join("new"));
    let long_names = takes_long_names(dir);
    let links = fs::hard_link(&path, dir.join("link")).is_ok();
    let _ = fs::remove_file(dir.join("link"));

    let larger = above_its_memory_limit(kind, &dir.join("large"));
    let draft = Draft::create(dir.join("large"), 1 << 20).unwrap();
    let reserved = draft
        .file()
        .map(|file| file.metadata().unwrap().blocks() * 512 >= 1 << 20);
    drop(draft);

    let text = vec![7; 1 << 20];
    fs::write(&path, &text).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    let mut edit = Draft::edit(&path).unwrap();
    let shares = edit.file().is_ok_and(has_shared_extent);
    edit[5] = 8;
    edit.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap()[4..7], [7, 8, 7], "{kind}");

    let exclusive = exclusive(kind, &path);
    let unnamed = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(dir)
        .is_ok();
    assert_eq!(
        names(dir),
        [&before[..], &["new".to_owned()]].concat(),
        "{kind}"
    );
    let yes = |is: bool| if is { "yes" } else { "no" };
    format!(
        "| {kind} | {} | {larger} | {} | {} | {} | {} | yes | {} | {exclusive} |",
        yes(unnamed),
        yes(reserved.unwrap_or(false)),
        yes(shares),
        yes(keeps_modes),
        yes(links),
        yes(long_names)
    )
}

fn assert_one_of_two_new_files_wins(kind: &str, path: &Path) {
    let new = Draft::options().create_new(true);
    let racing = [1, 2].map(|n| draft_of(new, path, &[n]).unwrap());
    let [first, second] = racing.map(Draft::commit);
    first.unwrap_or_else(|e| panic!("{kind}: {e:?}"));
    let lost = second.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::AlreadyExists, "{kind}");
    assert_eq!(fs::read(path).unwrap(), [1], "{kind}");
}

/// Whether a draft can have, and replace, a name of 237 bytes; it can where `File::create` can.
fn takes_long_names(dir: &Path) -> bool {
    let long = dir.join("議".repeat(79));
    if File::create(&long).is_err() {
        return false;
    }
    fs::remove_file(&long).unwrap();
    for bytes in [b"x", b"y"] {
        let draft = draft_of(Draft::options(), &long, bytes).unwrap();
        draft.commit().unwrap();
    }
    fs::remove_file(&long).unwrap();
    true
}

/// Where a draft above its memory limit has its bytes.
fn above_its_memory_limit(kind: &str, path: &Path) -> &'static str {
    match Draft::options().memory_limit(0).create(path, 1 << 20) {
        Ok(draft) => {
            draft.commit().unwrap();
            fs::remove_file(path).unwrap();
            "in its file"
        }
        Err(Error::TooLarge { .. }) => "`TooLarge`",
        Err(error) => panic!("{kind}: {error:?}"),
    }
}

/// Whether a file can be edited there.
fn exclusive(kind: &str, path: &Path) -> &'static str {
    loop {
        match Exclusive::open(path) {
            Err(Error::Busy { .. }) => {}
            Err(Error::Unprotectable { .. }) => return "`Unprotectable`",
            other => {
                let file = other.unwrap_or_else(|e| panic!("{kind}: {e:?}"));
                assert_eq!(file.backing(), Backing::Leased);
                return "yes";
            }
        }
    }
}

/// Whether a clone has the same blocks: FIEMAP, linux/fiemap.h.
fn has_shared_extent(file: &File) -> bool {
    const FIEMAP: libc::Ioctl = 0xc020_660b_u32 as libc::Ioctl;
    const SHARED: u32 = 0x2000;
    // struct fiemap with one extent: its flags are at byte 32 + 40.
    let mut map = [0_u32; 32 / 4 + 56 / 4];
    (map[2], map[3], map[6]) = (u32::MAX, u32::MAX, 1);
    // SAFETY: reads and writes the struct, which has room for one extent.
    let done = unsafe {
        libc::ioctl(
            std::os::fd::AsRawFd::as_raw_fd(file),
            FIEMAP,
            map.as_mut_ptr(),
        )
    };
    done == 0 && map[5] > 0 && map[18] & SHARED != 0
}

#[test]
fn each_that_this_machine_has() {
    let outcome = scenario!(|| {
        for kind in KINDS {
            if let Some(system) = LoopFs::new(kind, 64 << 20) {
                report(row(kind, system.path()));
            }
        }
    })
    .succeed();
    println!("{HEAD}\n|{}", "---|".repeat(10));
    outcome.reports().iter().for_each(|row| println!("{row}"));
}
