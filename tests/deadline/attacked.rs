//! Attacks that once let a byte change at the end of the break time, and what happened then.

use crate::support::break_time::BreakTime;
use crate::support::child::{argument, fork, report, scenario};
use crate::support::control_group::ControlGroup;
use crate::support::exclusive;
use crate::support::file_with;
use crate::support::kernel::{self, limit};
use crate::support::leased::{Folder, leased};
use crate::support::refuse::{Refusal, hold, refuse_if};
use std::fs;
use std::io::{Read, Write, pipe};
use std::path::PathBuf;
use std::thread;
use stillmap::{Exclusive, Snapshot};

/// Attack "no thread can be started, and a slow disk". The disk is so slow that no read of it returns. Before: the
/// thread that copied was the one that watched the time, and at 45.28 s a byte changed under `Leased`.
#[test]
fn a_copy_that_never_ends_is_given_up_in_time() {
    const LEN: usize = 4 << 20;
    let mut child = scenario!(|| {
        let path = PathBuf::from(argument("PATH"));
        // The reads of the copy; those of the break time are short.
        let _reads = hold(libc::SYS_pread64, (2, u32::MAX, LEN as u32));
        let snapshot = leased(|| Snapshot::open(&path));
        report("holding");
        thread::spawn(move || {
            while snapshot.iter().all(|&byte| byte == 5) {}
            report("changed");
        });
        let _ = fs::write(&path, vec![6; LEN]);
        report("let in");
    });
    let (Some(_time), Some(folder)) = (BreakTime::of(2), Folder::new()) else {
        return;
    };
    let path = file_with(folder.path(), "file", &vec![5; LEN]);
    let outcome = child.argument("PATH", &path).run();
    assert_eq!(outcome.reports(), ["holding"], "{outcome:?}");
    assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{outcome:?}");
    assert!(fs::read(&path).unwrap() == vec![5; LEN]);
}

/// Attack: the program closes the number of an exclusive file, and another file gets it. Before: the bytes of that file came
/// to be under the `&mut [u8]`.
#[test]
fn a_number_that_leads_to_another_file_brings_no_byte_of_it() {
    const LEN: usize = 1 << 20;
    let mut child = scenario!(|| {
        let edited = PathBuf::from(argument("EDITED"));
        let mut file = exclusive::open(&edited);
        file.fill(2);
        for number in 3..100 {
            let link = fs::read_link(format!("/proc/self/fd/{number}"));
            if link.is_ok_and(|path| path == edited) {
                // SAFETY: takes a number.
                unsafe { libc::close(number) };
            }
        }
        let open = |_| fs::File::open(argument("OTHER")).unwrap();
        let _others: Vec<_> = (0..60).map(open).collect();
        report("holding");
        thread::spawn(move || {
            while file.iter().all(|&byte| byte == 2) {}
            report("changed");
        });
        drop(fs::read(&edited));
        report("let in");
    });
    let (Some(_time), Some(system)) = (BreakTime::of(2), exclusive::any_system()) else {
        return;
    };
    let edited = file_with(system.path(), "edited", &vec![1; LEN]);
    let other = file_with(system.path(), "other", &vec![9; LEN]);
    let child = child.argument("EDITED", &edited);
    let outcome = child.argument("OTHER", &other).run();
    assert_eq!(outcome.reports(), ["holding"], "{outcome:?}");
    assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{outcome:?}");
}

/// Attack "the lease thread's deadlock": an exclusive file is to be released, and the kernel has no memory for its
/// pages, while four threads lock disjoint ranges of it and another lock guard is alive. Before: the promised abort did
/// not come, the opener was let in, and a byte changed under a leased snapshot of another file.
#[test]
fn threads_that_lock_pages_do_not_keep_the_monitor_waiting() {
    const UFFDIO_COPY: u32 = 0xc028_aa03;
    let mut child = scenario!(|| {
        let edited = PathBuf::from(argument("EDITED"));
        let read = PathBuf::from(argument("READ"));
        refuse_if(Refusal {
            call: libc::SYS_ioctl,
            errno: libc::ENOMEM,
            argument: Some((1, u32::MAX, UFFDIO_COPY)),
        });
        let snapshot = leased(|| Snapshot::open(&read));
        let _locked = snapshot.pages().lock(..).unwrap();
        let mut file = exclusive::open(&edited);
        file.fill(2);
        let file = &file;
        report("holding");
        thread::scope(|scope| {
            for part in 0..4 {
                let part = part * file.len() / 4..(part + 1) * file.len() / 4;
                scope.spawn(move || {
                    loop {
                        drop(file.pages().lock(part.clone()).unwrap());
                    }
                });
            }
            let opened = fs::read(&edited);
            report(format_args!("let in: {}", opened.is_ok()));
        });
    });
    if !kernel::may_lock() {
        return;
    }
    let Some(_time) = BreakTime::of(2) else {
        return;
    };
    let (Some(system), Some(folder)) = (exclusive::any_system(), Folder::new()) else {
        return;
    };
    let edited = file_with(system.path(), "edited", &vec![1; 64 << 10]);
    let read = file_with(folder.path(), "read", &vec![5; 2 << 20]);
    let outcome = child
        .argument("EDITED", &edited)
        .argument("READ", &read)
        .run();
    assert_eq!(outcome.reports(), ["holding"], "{outcome:?}");
    assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{outcome:?}");
    assert!(outcome.stderr.contains("edited"), "{}", outcome.stderr);
}

/// Attack "out of descriptors or threads when an `Exclusive` is wanted". Before: abort at 40.5 s, with "there was no
/// memory". The open acquires everything, or fails: tested with each number of descriptors.
#[test]
fn an_exclusive_file_that_was_opened_can_be_let_go_without_descriptors_and_threads() {
    scenario!(|| {
        let (Some(_time), Some(group)) = (BreakTime::of(2), ControlGroup::with_pids()) else {
            return;
        };
        let Some(system) = exclusive::any_system() else {
            return;
        };
        let path = file_with(system.path(), "file", &vec![1; 300 << 10]);
        let (mut go, tell) = pipe().unwrap();
        let (mut seen, say) = pipe().unwrap();
        let opener = fork(|| {
            go.read_exact(&mut [0]).unwrap();
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, b"of the opener").unwrap();
            (&say)
                .write_all(&[bytes[0], *bytes.last().unwrap()])
                .unwrap();
        });
        let editor = fork(|| {
            // The monitor's two.
            group.join_with(2);
            let used = kernel::descriptors().len() as u64;
            let mut refused = 0;
            let mut file = (used..)
                .find_map(|number| {
                    limit(libc::RLIMIT_NOFILE, number);
                    let opened = Exclusive::open(&path);
                    refused += u32::from(opened.is_err());
                    opened.ok()
                })
                .unwrap();
            assert!(refused > 0);
            limit(libc::RLIMIT_NOFILE, 0);
            file.fill(2);
            (&tell).write_all(&[0]).unwrap();
            let mut bytes = [0; 2];
            seen.read_exact(&mut bytes).unwrap();
            assert_eq!(bytes, [2; 2]);
            assert!(file.iter().all(|&byte| byte == 2));
            file.fill(3);
        });
        editor.succeed();
        opener.succeed();
        assert_eq!(fs::read(&path).unwrap(), b"of the opener");
    })
    .succeed();
}

/// Attack "the break time misread": 45 s were assumed, and with a shorter time another process wrote under `&Exclusive`.
/// Here it is shortened after the open.
#[test]
fn a_break_time_that_is_shortened_later_is_kept() {
    scenario!(|| {
        let Some(system) = exclusive::any_system() else {
            return;
        };
        let path = file_with(system.path(), "file", &vec![1; 300 << 10]);
        let mut file = exclusive::open(&path);
        let Some(_time) = BreakTime::of(2) else {
            return;
        };
        file.fill(2);
        let opener = std::process::Command::new("dd")
            .arg(format!("of={}", path.display()))
            .args([
                "if=/dev/zero",
                "bs=300k",
                "count=1",
                "conv=notrunc",
                "status=none",
            ])
            .status()
            .unwrap();
        assert!(opener.success());
        assert!(file.iter().all(|&byte| byte == 2));
        file.fill(3);
        assert!(fs::read(&path).unwrap().iter().all(|&byte| byte == 0));
    })
    .succeed();
}
