//! SIGKILL at any moment: the path has the old bytes or the new ones, whole, and its directory holds nothing else.

use crate::support::bytes::pattern;
use crate::support::child::{fork, report, scenario};
use crate::support::disk::LoopFs;
use crate::support::kernel::may_start;
use crate::support::pipe::pipe;
use crate::support::random::seed;
use crate::support::temp_dir;
use crate::support::trace::{Traced, stop_here};
use crate::support::xattr::{get_xattr, set_xattr};
use crate::{draft_of, names, stores};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};
use stillmap::{Draft, Replace};

/// Helpers of those that were killed count as processes until init has reaped them.
pub const MANY: u64 = 200;

/// Bytes that depend on the version, as does their number.
fn version(number: u64) -> Vec<u8> {
    let mut bytes = pattern(number, 8 + (number as usize * 1237) % 9000);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The version that a file holds, whole.
#[track_caller]
fn version_in(path: &Path) -> u64 {
    let bytes = fs::read(path).expect("read the target");
    let number = bytes
        .get(..8)
        .map(|b| u64::from_le_bytes(b.try_into().unwrap()));
    let number = number.unwrap_or_else(|| panic!("{} bytes", bytes.len()));
    assert!(
        bytes == version(number),
        "{} bytes of {number}",
        bytes.len()
    );
    number
}

/// Returns when the child and the processes that it started have ended: no process has the other end open any more.
fn wait_for_all(end: OwnedFd) {
    let mut rest = Vec::new();
    File::from(end).read_to_end(&mut rest).expect("read a pipe");
}

fn write_version(path: &Path, number: u64) {
    let bytes = version(number);
    let stores = stores(path.parent().unwrap());
    let options = stores[number as usize % stores.len()].durable(number % 8 == 0);
    let mut draft = options.create(path, bytes.len() / 2).unwrap();
    let half = draft.len();
    draft.copy_from_slice(&bytes[..half]);
    draft.resize(bytes.len()).unwrap();
    draft[half..].copy_from_slice(&bytes[half..]);
    draft.commit().unwrap();
}

/// Kills children that replace `path` again and again.
fn kill_at_random(path: &Path, rounds: u32) {
    let mut random = seed();
    let mut last = 0;
    write_version(path, last);
    for round in 0..rounds {
        let (theirs, ours) = pipe();
        let child = fork(|| {
            let mut ready = File::from(ours.try_clone().unwrap());
            let mut number = last;
            loop {
                number += 1;
                write_version(path, number);
                if number == last + 1 {
                    ready.write_all(b"x").unwrap();
                }
            }
        });
        drop(ours);
        let mut theirs = File::from(theirs);
        // Half of the children are killed in their first commit.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        if random >> 63 == 0 {
            theirs.read_exact(&mut [0]).unwrap();
        }
        let until = Instant::now() + Duration::from_nanos((random >> 20) % 700_000);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill();
        child.wait();
        wait_for_all(theirs.into());
        let now = version_in(path);
        assert!(now >= last, "round {round}: {now} after {last}");
        assert_eq!(names(path.parent().unwrap()), ["file"], "round {round}");
        last = now;
    }
    report(format_args!("{last} commits"));
    assert!(last > u64::from(rounds) / 4, "only {last} commits");
}

#[test]
fn at_a_thousand_random_moments_on_disk() {
    if !crate::has_unnamed(&std::env::temp_dir()) || !may_start(MANY) {
        return;
    }
    scenario!(|| {
        let dir = temp_dir();
        kill_at_random(&dir.path().join("file"), 1000);
    })
    .succeed();
}

#[test]
fn at_three_thousand_random_moments_on_tmpfs() {
    if !crate::has_unnamed(&std::env::temp_dir()) || !may_start(MANY) {
        return;
    }
    scenario!(|| {
        let Some(fs) = LoopFs::new("tmpfs", 64 << 20) else {
            return;
        };
        kill_at_random(&fs.path().join("file"), 3000);
    })
    .succeed();
}

/// Rights of the old file, which the new one has, too.
const MODE: u32 = 0o604;
const NOTE: &[u8] = b"of the owner";

fn assert_rights(path: &Path, step: u32) {
    let mode = fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, MODE, "step {step}");
    let note = get_xattr(path, "user.note");
    assert!(note.is_none_or(|note| note == NOTE), "step {step}");
}

/// What the child of an exact test does after it is traced.
fn commit_over(path: &Path, old: Option<&str>, replace: Replace) -> libc::pid_t {
    match old {
        Some(bytes) => {
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(MODE)).unwrap();
            let _ = set_xattr(path, "user.note", NOTE);
        }
        None => {
            let _ = fs::remove_file(path);
        }
    }
    let child = fork(|| {
        stop_here();
        let options = Draft::options().replace(replace);
        let mut draft = draft_of(options, path, b"n").unwrap();
        draft.resize(3).unwrap();
        draft.copy_from_slice(b"new");
        draft.commit().unwrap();
    });
    child.id()
}

#[test]
fn before_and_after_each_system_call() {
    if !crate::has_unnamed(&std::env::temp_dir()) || !may_start(MANY) {
        return;
    }
    scenario!(|| {
        if !Traced::is_possible() {
            return;
        }
        let dir = temp_dir();
        let path = dir.path().join("file");
        for old in [Some("old bytes"), None] {
            let (mut old_seen, mut new_seen) = (0, 0);
            for steps in 0.. {
                let (theirs, ours) = pipe();
                let mut child = Traced::new(commit_over(&path, old, Replace::Rename));
                drop(ours);
                let alive = (0..steps).all(|_| child.step());
                child.kill_main();
                wait_for_all(theirs);
                match fs::read(&path) {
                    Ok(bytes) if bytes == b"new" => new_seen += 1,
                    Ok(bytes) => {
                        assert_eq!(Some(&bytes[..]), old.map(str::as_bytes), "step {steps}");
                        old_seen += 1;
                    }
                    Err(error) => {
                        assert_eq!(old, None, "step {steps}: {error}");
                        old_seen += 1;
                    }
                }
                if old.is_some() {
                    assert_rights(&path, steps);
                }
                let left = names(dir.path());
                assert!(
                    left.iter().all(|name| name == "file"),
                    "step {steps}: {left:?}"
                );
                if !alive {
                    break;
                }
            }
            report(format_args!("old {old_seen} times, new {new_seen} times"));
            assert!(old_seen > 20 && new_seen > 2, "{old_seen}, {new_seen}");
        }
    })
    .succeed();
}

/// In place it may be a mixture, but the file stays what it is.
#[test]
fn in_place_before_and_after_each_system_call() {
    scenario!(|| {
        if !Traced::is_possible() {
            return;
        }
        let dir = temp_dir();
        let path = dir.path().join("file");
        let mut seen = std::collections::BTreeSet::new();
        for steps in 0.. {
            let mut child = Traced::new(commit_over(&path, Some("old bytes"), Replace::InPlace));
            let inode = fs::metadata(&path).unwrap().ino();
            let alive = (0..steps).all(|_| child.step());
            child.kill_main();
            let bytes = fs::read_to_string(&path).unwrap();
            assert!(
                ["old bytes", "new bytes", "new"].contains(&&bytes[..]),
                "step {steps}: {bytes}"
            );
            seen.insert(bytes);
            assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "step {steps}");
            assert_rights(&path, steps);
            assert_eq!(names(dir.path()), ["file"], "step {steps}");
            if !alive {
                break;
            }
        }
        assert_eq!(seen.len(), 3, "{seen:?}");
    })
    .succeed();
}

#[test]
fn of_the_helper_alone_before_and_after_each_of_its_system_calls() {
    if !crate::has_unnamed(&std::env::temp_dir()) || !may_start(MANY) {
        return;
    }
    scenario!(|| {
        if !Traced::is_possible() {
            return;
        }
        let dir = temp_dir();
        let path = dir.path().join("file");
        let mut killed = 0;
        for steps in 1.. {
            let mut child = Traced::new(commit_over(&path, Some("old bytes"), Replace::Rename));
            let mut others = 0;
            let alive = loop {
                if !child.step() {
                    break false;
                }
                others += u32::from(child.is_at_other());
                if others == steps {
                    break true;
                }
            };
            if !alive {
                break;
            }
            killed += 1;
            assert_eq!(child.kill_other(), 0, "step {steps}");
            assert_eq!(fs::read(&path).unwrap(), b"new", "step {steps}");
            assert_rights(&path, steps);
            assert_eq!(names(dir.path()), ["file"], "step {steps}");
        }
        report(format_args!("killed {killed} times"));
        assert!(killed > 4);
    })
    .succeed();
}
