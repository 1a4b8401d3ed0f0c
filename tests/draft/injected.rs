//! Each system call in its turn fails, whichever it is: an error that names the operation and the path and the old bytes,
//! or the new bytes; nothing left behind, and no signal.

use crate::killed::MANY;
use crate::support::child::{fork, report, scenario};
use crate::support::kernel::may_start;
use crate::support::trace::{Traced, stop_here};
use crate::support::{skip, temp_dir};
use crate::{names, stores};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use stillmap::{DraftOptions, Error, Result};

/// No system call of Linux has this number: it marks the end of the draft for the tracer.
const DONE: libc::c_long = 9999;

const CANNOT_FAIL: [libc::c_long; 3] = [libc::SYS_getpid, libc::SYS_exit, libc::SYS_exit_group];

/// musl's allocator has no other way to get memory, so these would end the test itself.
const OF_THE_ALLOCATOR: &[libc::c_long] = if cfg!(target_env = "musl") {
    &[libc::SYS_brk, libc::SYS_mmap, libc::SYS_mremap]
} else {
    &[]
};

/// What a child found, as its exit code.
const PUBLISHED: i32 = 0;
const NAMED: i32 = 10;
const DIRECTORY_NOT_SYNCED: i32 = 11;
const NAMELESS: i32 = 12;

fn all_of_it(options: DraftOptions, path: &Path) -> Result<()> {
    let mut draft = options.create(path, 10_000)?;
    draft.fill(7);
    draft.resize(20_000)?;
    draft.resize(9000)?;
    Ok(draft.commit()?)
}

fn outcome(done: Result<()>, path: &Path, errno: i32) -> i32 {
    let Err(error) = done else { return PUBLISHED };
    let is_this = error.raw_os_error() == Some(errno);
    match &error {
        Error::Os {
            operation: call,
            path: Some(on),
            ..
        } if is_this && *call == "fsync" && path.parent() == Some(on) => DIRECTORY_NOT_SYNCED,
        Error::Os { path: Some(on), .. } if is_this && on == path => NAMED,
        // The directory could not be opened.
        Error::Os { path: Some(on), .. } if is_this && path.parent() == Some(on) => NAMED,
        // What could not be done for this call was done in another way, which had a limit of its own.
        Error::TooLarge { path: Some(on), .. } if on == path => NAMED,
        other => {
            eprintln!("{other} ({other:?})");
            NAMELESS
        }
    }
}

/// One draft whose system call number `fails` fails, counted from 0; its exit code and the number of the call, or `None`
/// when there are no more.
fn with_one_failure(
    options: DraftOptions,
    path: &Path,
    fails: u32,
    errno: i32,
) -> Option<(i32, libc::c_long)> {
    let child = fork(|| {
        stop_here();
        let done = all_of_it(options, path);
        // SAFETY: there is no such call.
        unsafe { libc::syscall(DONE) };
        std::process::exit(outcome(done, path, errno));
    });
    let mut traced = Traced::new(child.id());
    let mut entered = 0;
    let mut failed = None;
    while traced.step() {
        match traced.entering() {
            Some(DONE) => break,
            Some(call) if entered == fails => {
                if !CANNOT_FAIL.contains(&call) && !OF_THE_ALLOCATOR.contains(&call) {
                    traced.fail(errno);
                }
                entered += 1;
                failed = Some(call);
            }
            Some(_) => entered += 1,
            None => {}
        }
    }
    let status = traced.run_on();
    assert!(
        libc::WIFEXITED(status),
        "call {fails} ({failed:?}): status {status:#x}"
    );
    failed.map(|call| (libc::WEXITSTATUS(status), call))
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "registers of x86-64")]
fn each_system_call_in_its_turn() {
    if !crate::has_unnamed(&std::env::temp_dir()) || !may_start(MANY) {
        return;
    }
    if !OF_THE_ALLOCATOR.is_empty() {
        skip(
            "brk(2), mmap(2) and mremap(2) failing: musl's allocator has no other way to get memory",
        );
    }
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        let mut seen = BTreeMap::new();
        let stores = stores(dir.path());
        let published = 2 * stores.len();
        for (number, options) in stores.into_iter().enumerate() {
            for old in [Some("old bytes"), None] {
                for fails in 0.. {
                    let _ = fs::remove_file(&path);
                    if let Some(old) = old {
                        fs::write(&path, old).unwrap();
                    }
                    let errno =
                        [libc::EIO, libc::ENOSPC, libc::EDQUOT][(fails as usize + number) % 3];

                    let Some((code, call)) = with_one_failure(options, &path, fails, errno) else {
                        break;
                    };
                    let what = format!("store {number}, {old:?}, call {fails} ({call})");
                    let bytes = fs::read(&path).ok();
                    let is_new = bytes.as_deref() == Some(&[7; 9000]);
                    let is_old = bytes.as_deref() == old.map(str::as_bytes);
                    match code {
                        PUBLISHED | DIRECTORY_NOT_SYNCED => assert!(is_new, "{what}"),
                        NAMED => assert!(is_old, "{what}: {:?}", bytes.map(|b| b.len())),
                        code => panic!("{what}: {code}"),
                    }
                    let left = names(dir.path());
                    assert!(left.iter().all(|name| name == "file"), "{what}: {left:?}");
                    *seen.entry(code).or_insert(0) += 1;
                }
            }
        }
        report(format_args!("{seen:?}"));
        assert!(
            seen[&NAMED] > 50 && seen[&DIRECTORY_NOT_SYNCED] == published,
            "{seen:?}"
        );
    })
    .succeed();
}
