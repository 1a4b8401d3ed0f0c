//! The scope itself: what it returns, which processes it waits for, and how children end.

use super::{is_childless, one, send, status, wait_for};
use crate::support;
use crate::support::child::{report, scenario};
use crate::support::kernel;
use crate::support::pipe::pipe;
use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use stillmap::fork::{self, Scope};
use stillmap::{Anonymous, Error, Shared};

#[test]
fn all_else_is_the_childs_own() {
    scenario!(|| {
        let mut private = Anonymous::new(4096).unwrap();
        let mut vector = vec![1; 100];
        let cell = Cell::new(1);
        one(|| {
            private.fill(7);
            vector.fill(7);
            cell.set(7);
        })
        .unwrap();
        assert!(private.iter().all(|&byte| byte == 0));
        assert!(vector.iter().all(|&byte| byte == 1));
        assert_eq!(cell.get(), 1);
    })
    .succeed();
}

#[test]
fn the_scope_gives_what_its_closure_gives() {
    scenario!(|| {
        assert_eq!(fork::scope(|_| 7).unwrap(), 7);
        let id = fork::scope(|s| s.spawn(|| ()).unwrap().id()).unwrap();
        assert_ne!(id, std::process::id());
    })
    .succeed();
}

#[test]
fn a_child_that_fails_is_reported_by_the_scope() {
    scenario!(|| {
        assert_eq!(status(one(|| std::process::exit(3))).code(), Some(3));
        assert_eq!(status(one(|| panic!("on purpose"))).code(), Some(101));
        let killed = status(one(|| send(libc::SIGKILL, std::process::id())));
        assert_eq!(killed.signal(), Some(libc::SIGKILL));
        let aborted = status(one(|| std::process::abort()));
        assert_eq!(aborted.signal(), Some(libc::SIGABRT));
        // The first of them, in the order of spawning.
        let result = fork::scope(|s| {
            s.spawn(|| ()).unwrap();
            s.spawn(|| std::process::exit(4)).unwrap();
            s.spawn(|| std::process::exit(5)).unwrap();
        });
        assert_eq!(status(result).code(), Some(4));
        assert!(is_childless());
    })
    .succeed();
}

#[test]
fn a_panic_prints_its_message() {
    let outcome = scenario!(|| {
        let _ = one(|| panic!("the words of a child"));
    })
    .succeed();
    assert!(outcome.stderr.contains("the words of a child"));
}

#[test]
fn a_child_that_was_waited_for_is_the_callers_business() {
    scenario!(|| {
        fork::scope(|s| {
            let failing = s.spawn(|| std::process::exit(3)).unwrap();
            let killed = s.spawn(|| send(libc::SIGKILL, std::process::id())).unwrap();
            let well = s.spawn(|| ()).unwrap();
            assert!(well.wait().unwrap().success());
            assert_eq!(killed.wait().unwrap().signal(), Some(libc::SIGKILL));
            assert_eq!(failing.wait().unwrap().code(), Some(3));
        })
        .unwrap();
    })
    .succeed();
}

#[test]
fn it_waits_also_while_it_unwinds() {
    /// Lets three go on, not before it is dropped.
    struct LetGo(OwnedFd);
    impl Drop for LetGo {
        fn drop(&mut self) {
            assert!(std::thread::panicking());
            File::from(self.0.try_clone().unwrap())
                .write_all(b"123")
                .unwrap();
        }
    }
    scenario!(|| {
        let done = Shared::<AtomicU32>::new().unwrap();
        let (end, hold) = pipe();
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            fork::scope(|s| {
                for _ in 0..3 {
                    s.spawn(|| {
                        wait_for(end.try_clone().unwrap());
                        done.fetch_add(1, Ordering::Relaxed);
                    })
                    .unwrap();
                }
                let _let_go = LetGo(hold);
                assert_eq!(done.load(Ordering::Relaxed), 0);
                panic!("on purpose");
            })
        }));
        assert!(unwound.is_err());
        assert_eq!(done.load(Ordering::Relaxed), 3);
        assert!(is_childless());
    })
    .succeed();
}

/// Checks all ends of a child while other code reaps the children.
fn every_end_is_known() {
    one(|| ()).unwrap();
    assert_eq!(status(one(|| panic!("on purpose"))).code(), Some(101));
    if kernel::may_open(200) && kernel::may_start(200) {
        fork::scope(|s| {
            let children: Vec<_> = (0..50).map(|_| s.spawn(|| ()).unwrap()).collect();
            for child in children {
                assert!(child.wait().unwrap().success());
            }
        })
        .unwrap();
    }
    // What the child cannot report itself, Linux 6.15 remembers.
    for result in [
        (one(|| std::process::exit(3)), Some(3), None),
        (
            one(|| send(libc::SIGKILL, std::process::id())),
            None,
            Some(libc::SIGKILL),
        ),
    ] {
        match result {
            (Err(Error::ChildFailed { status, .. }), code, signal) => {
                assert_eq!((status.code(), status.signal()), (code, signal));
            }
            (
                Err(Error::Os {
                    operation: "waitid",
                    ..
                }),
                ..,
            ) => {
                support::skip("the kernel forgets how a child ended");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(is_childless());
}

#[test]
fn ignored_sigchld_hides_no_end() {
    scenario!(|| {
        // SAFETY: sets a disposition.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
        every_end_is_known();
    })
    .succeed();
}

#[test]
fn a_program_that_reaps_everything_hides_no_end() {
    static REAPED: AtomicI32 = AtomicI32::new(0);
    extern "C" fn reap(_: i32) {
        // SAFETY: waitpid is async-signal-safe; a null pointer asks for no status.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {
            REAPED.fetch_add(1, Ordering::Relaxed);
        }
    }
    scenario!(|| {
        // SAFETY: the handler is async-signal-safe.
        unsafe { libc::signal(libc::SIGCHLD, reap as *const () as usize) };
        every_end_is_known();
        assert!(REAPED.load(Ordering::Relaxed) > 0);
    })
    .succeed();
}

#[test]
fn sa_nocldwait_hides_no_end() {
    scenario!(|| {
        // SAFETY: zero is a valid sigaction; sets a disposition.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_flags = libc::SA_NOCLDWAIT;
            libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut());
        }
        every_end_is_known();
    })
    .succeed();
}

#[test]
fn a_stopped_child_is_waited_for() {
    scenario!(|| {
        let done = Shared::<AtomicU32>::new().unwrap();
        fork::scope(|s| {
            let child = s
                .spawn(|| {
                    send(libc::SIGSTOP, std::process::id());
                    done.store(1, Ordering::Relaxed);
                })
                .unwrap();
            let id = child.id();
            // A second child lets it go on, once it is stopped and we wait for it.
            s.spawn(move || {
                while !std::fs::read_to_string(format!("/proc/{id}/stat"))
                    .unwrap()
                    .contains(") T ")
                {
                    std::thread::yield_now();
                }
                send(libc::SIGCONT, id);
            })
            .unwrap();
            assert!(child.wait().unwrap().success());
        })
        .unwrap();
        assert_eq!(done.load(Ordering::Relaxed), 1);
    })
    .succeed();
}

#[test]
fn what_a_child_forks_by_itself_is_waited_for() {
    scenario!(|| {
        let done = Shared::<AtomicU32>::new().unwrap();
        fork::scope(|s| {
            let child = s
                .spawn(|| {
                    let (done, parent) = (&done, std::process::id());
                    // Left behind on purpose.
                    let _ = support::child::fork(move || {
                        while std::os::unix::process::parent_id() == parent {
                            std::thread::yield_now();
                        }
                        // The child is gone; a caller that waits for it alone would be further by now.
                        for turn in 0..20_000_000 {
                            std::hint::black_box(turn);
                        }
                        done.store(1, Ordering::Relaxed);
                    });
                })
                .unwrap();
            assert!(child.wait().unwrap().success());
            assert_eq!(done.load(Ordering::Relaxed), 1);
        })
        .unwrap();
    })
    .succeed();
}

#[test]
fn grandchildren_are_gone_when_a_killed_child_is() {
    scenario!(|| {
        let grandchild = Shared::<AtomicU32>::new().unwrap();
        let killed = fork::scope(|s| {
            let (end, hold) = pipe();
            let child = s
                .spawn(|| {
                    let hold = hold;
                    one(|| {
                        grandchild.store(std::process::id(), Ordering::Relaxed);
                        File::from(hold).write_all(b"!").unwrap();
                        loop {
                            std::thread::park();
                        }
                    })
                    .unwrap();
                })
                .unwrap();
            wait_for(end);
            send(libc::SIGKILL, child.id());
            child.wait().unwrap().signal()
        });
        assert_eq!(killed.unwrap(), Some(libc::SIGKILL));
        // A zombie perhaps, until init reaps it, but without memory.
        let id = grandchild.load(Ordering::Relaxed);
        let maps = std::fs::read_to_string(format!("/proc/{id}/maps"));
        assert_eq!(maps.unwrap_or_default(), "");
    })
    .succeed();
}

#[test]
fn the_parents_scope_and_children_are_not_the_childs() {
    fn in_child<'scope>(s: &'scope Scope<'scope, '_>) {
        let (end, hold) = pipe();
        let sibling = s.spawn(move || wait_for(end)).unwrap();
        let refused = s
            .spawn(move || {
                let refused = s.spawn(|| ());
                assert!(matches!(refused, Err(Error::WrongProcess { .. })));
                let refused = sibling.wait();
                assert!(matches!(refused, Err(Error::WrongProcess { .. })));
            })
            .unwrap();
        assert!(refused.wait().unwrap().success());
        File::from(hold).write_all(b"!").unwrap();
    }
    scenario!(|| {
        fork::scope(|s| in_child(s)).unwrap();
        assert!(is_childless());
    })
    .succeed();
}

#[test]
fn what_a_closure_owns_is_dropped_here_at_once() {
    scenario!(|| {
        let (end, hold) = pipe();
        fork::scope(|s| {
            s.spawn(move || File::from(hold).write_all(b"from the child").unwrap())
                .unwrap();
            let mut text = String::new();
            // Ends, though the child was not waited for: no other process holds the other end.
            File::from(end).read_to_string(&mut text).unwrap();
            assert_eq!(text, "from the child");
        })
        .unwrap();
    })
    .succeed();
}

#[test]
fn a_destructor_that_panics_here_leaves_no_child_behind() {
    struct Fails(u32);
    impl Drop for Fails {
        fn drop(&mut self) {
            assert_ne!(self.0, std::process::id(), "on purpose");
        }
    }
    scenario!(|| {
        let done = Shared::<AtomicU32>::new().unwrap();
        let fails = Fails(std::process::id());
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            one(|| {
                let _fails = fails;
                done.store(1, Ordering::Relaxed);
            })
        }));
        assert!(unwound.is_err());
        assert_eq!(done.load(Ordering::Relaxed), 1);
        assert!(is_childless());
    })
    .succeed();
}

#[test]
fn nothing_runs_at_the_end_of_a_child() {
    extern "C" fn at_exit() {
        report("at exit");
    }
    let outcome = scenario!(|| {
        struct Loud;
        impl Drop for Loud {
            fn drop(&mut self) {
                report(format_args!("dropped in {}", std::process::id()));
            }
        }
        // SAFETY: the handler prints.
        unsafe { libc::atexit(at_exit) };
        let _parents = Loud;
        print!("half a line, ");
        one(|| ()).unwrap();
        one(|| panic!("on purpose")).unwrap_err();
        report(format_args!("this is {}", std::process::id()));
    })
    .succeed();
    let reports = outcome.reports();
    assert_eq!(reports.len(), 2, "{reports:?}");
    let us = reports[0].trim_start_matches("this is ");
    assert_eq!(reports[1], format!("dropped in {us}"));
    assert_eq!(outcome.stdout.matches("half a line").count(), 1);
}

#[test]
fn sixty_four_children_lose_no_count() {
    scenario!(|| {
        if !kernel::may_open(200) || !kernel::may_start(200) {
            return;
        }
        let count = Shared::<AtomicU64>::new().unwrap();
        // The first scope opens a descriptor that stays open.
        one(|| ()).unwrap();
        let before = kernel::descriptors();
        fork::scope(|s| {
            for _ in 0..64 {
                s.spawn(|| {
                    for _ in 0..100_000 {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .unwrap();
            }
        })
        .unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 6_400_000);
        assert_eq!(kernel::descriptors(), before);
    })
    .succeed();
}
