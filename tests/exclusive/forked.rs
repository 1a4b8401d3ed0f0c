//! A forked child gets no file that its parent edits.

use crate::support::child::scenario;
use crate::support::exclusive::{any_system, open, systems};
use crate::support::file_with;
use crate::support::kernel::limit;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use stillmap::Error;

#[test]
fn a_child_can_neither_touch_nor_cut_it() {
    scenario!(|| {
        for (kind, system) in systems() {
            let path = file_with(system.path(), "file", &[1; 10_000]);
            let mut file = open(&path);
            file.fill(2);
            stillmap::fork::scope(|scope| {
                let child = scope.spawn(|| {
                    assert!(matches!(file.resize(0), Err(Error::WrongProcess { .. })));
                    assert!(matches!(
                        file.resize(20_000),
                        Err(Error::WrongProcess { .. })
                    ));
                    assert!(matches!(file.flush(), Err(Error::WrongProcess { .. })));
                    assert!(file.has_waiter());
                });
                assert!(child.unwrap().wait().unwrap().success());
            })
            .unwrap();
            stillmap::fork::scope(|scope| {
                let child = scope.spawn(|| file[0] = 3).unwrap();
                assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGSEGV));
            })
            .unwrap();
            assert!(!file.has_waiter(), "{kind}");
            assert_eq!(file[..], [2; 10_000], "{kind}");
            file.close().unwrap();
            assert_eq!(fs::read(&path).unwrap(), [2; 10_000], "{kind}");
        }
    })
    .succeed();
}

/// Over `RLIMIT_AS` the kernel refuses every mmap(2). Before: the child aborted.
#[test]
fn a_child_of_a_process_over_its_limit_of_addresses_lives() {
    scenario!(|| {
        let Some(system) = any_system() else {
            return;
        };
        let mut file = open(file_with(system.path(), "file", &[1; 10_000]));
        // There is memory for what is allocated here.
        drop(vec![1; 64 << 10]);
        let before = limit(libc::RLIMIT_AS, 1 << 20);
        let lives = stillmap::fork::scope(|scope| {
            let child = scope.spawn(|| assert!(file.has_waiter()));
            child?.wait()
        });
        let touches = stillmap::fork::scope(|scope| scope.spawn(|| file[0] = 3)?.wait());
        limit(libc::RLIMIT_AS, before);
        assert!(lives.unwrap().unwrap().success());
        assert_eq!(touches.unwrap().unwrap().signal(), Some(libc::SIGSEGV));
        file.close().unwrap();
    })
    .succeed();
}

#[test]
fn a_child_that_drops_it_releases_nothing() {
    scenario!(|| {
        for (kind, system) in systems() {
            let path = file_with(system.path(), "file", &[1; 10_000]);
            let mut file = Some(open(&path));
            stillmap::fork::scope(|scope| {
                let child = scope.spawn(|| {
                    let error = file.take().unwrap().close().unwrap_err();
                    assert!(matches!(error, Error::WrongProcess { .. }), "{error}");
                });
                assert!(child.unwrap().wait().unwrap().success());
            })
            .unwrap();
            let mut file = file.unwrap();
            assert!(!file.has_waiter(), "{kind}");
            file.fill(2);
            file.close().unwrap();
            assert_eq!(fs::read(&path).unwrap(), [2; 10_000], "{kind}");
        }
    })
    .succeed();
}
