//! A forked child gets no file that its parent edits.

use crate::support::child::{Forked, fork_into, scenario};
use crate::support::exclusive::{any_system, open, systems};
use crate::support::file_with;
use crate::support::kernel::limit;
use crate::support::pipe::pipe_of_files;
use crate::support::refuse::{Verdict, intercept};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};
use stillmap::{Error, Exclusive};

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

/// A child that has run its fork handlers, and does nothing until it is killed.
fn fork_and_pause() -> Forked {
    let (mut heard, mut tell) = pipe_of_files();
    // SAFETY: the child takes no lock.
    let child = unsafe {
        fork_into(|| {
            tell.write_all(&[0]).unwrap();
            loop {
                libc::pause();
            }
        })
    };
    heard.read_exact(&mut [0]).unwrap();
    child
}

/// A child that is forked while another thread opens a file, and its holes are filled. Before: the child had it mapped, and it
/// was busy as long as the child lived.
#[test]
fn a_child_forked_during_an_open_does_not_keep_the_file() {
    scenario!(|| {
        let Some(system) = any_system() else {
            return;
        };
        let path = system.path().join("sparse");
        File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let (filling, is_filling) = mpsc::channel();
        let (go_on, goes_on) = mpsc::channel();
        let mut is_first = true;
        intercept(libc::SYS_fallocate, (0, 0, 0), move |_| {
            if std::mem::take(&mut is_first) {
                filling.send(()).unwrap();
                goes_on.recv().unwrap();
            }
            Verdict::Continue
        });
        let opener = std::thread::spawn(move || Exclusive::open(path));
        is_filling.recv().unwrap();
        let child = fork_and_pause();
        go_on.send(()).unwrap();
        let opened = opener.join().unwrap();
        child.kill();
        child.wait();
        opened.unwrap().close().unwrap();
    })
    .succeed();
}

/// Another thread resizes and closes files while this one forks. Before: a child had a file mapped or open, and it was busy as
/// long as the child lived.
#[test]
fn children_forked_at_any_moment_keep_no_file() {
    const FORKS: usize = 200;
    scenario!(|| {
        let Some(system) = any_system() else {
            return;
        };
        let path = file_with(system.path(), "file", &[1; 10_000]);
        // A fork takes its time.
        let mut pages = vec![1_u8; 64 << 20];
        let stop = AtomicBool::new(false);
        let (mut mapped, mut open_there) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut file = open(&path);
                    file.resize(1 << 20).unwrap();
                    file.resize(10_000).unwrap();
                    file.close().unwrap();
                }
            });
            for _ in 0..FORKS {
                let child = fork_and_pause();
                let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
                mapped += usize::from(maps.contains(path.to_str().unwrap()));
                open_there += usize::from(has_writable(child.id(), &path));
                child.kill();
                child.wait();
                pages.iter_mut().step_by(4096).for_each(|byte| *byte ^= 1);
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!((mapped, open_there), (0, 0));
    })
    .succeed();
}

/// The first open of a process, which installs the fork handlers, while another thread forks. Before: the child had none.
#[test]
fn a_child_forked_during_the_first_open_keeps_no_file() {
    const PROCESSES: u64 = 200;
    scenario!(|| {
        let Some(system) = any_system() else {
            return;
        };
        let path = file_with(system.path(), "file", &[1; 10_000]);
        let first_open = |number| {
            let start = Barrier::new(2);
            std::thread::scope(|scope| {
                let opener = scope.spawn(|| {
                    start.wait();
                    Exclusive::open(&path)
                });
                start.wait();
                // A later moment of the open in each process.
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_micros(10 * number) {
                    std::hint::spin_loop();
                }
                let child = fork_and_pause();
                let opened = opener.join().unwrap();
                let is_open = has_writable(child.id(), &path);
                child.kill();
                child.wait();
                // On a machine so slow that the fork did not wait long enough, the open fails.
                assert!(!is_open || matches!(opened, Err(Error::Busy { .. })));
                is_open
            })
        };
        let mut kept = 0;
        for number in 0..PROCESSES {
            // SAFETY: the other threads hold no lock.
            let process = unsafe { fork_into(|| std::process::exit(first_open(number).into())) };
            let status = process.wait();
            assert!(matches!(status.code(), Some(0 | 1)), "{status}");
            kept += u64::from(status.code() == Some(1));
        }
        assert!(kept < PROCESSES / 20, "{kept}");
    })
    .succeed();
}

/// Whether a process has a file open for writing. An `O_PATH` descriptor keeps no file busy.
fn has_writable(process: i32, path: &Path) -> bool {
    let numbers = fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    numbers.flatten().any(|link| {
        let may_write = link.metadata().unwrap().mode() & 0o200 != 0;
        may_write && fs::read_link(link.path()).unwrap() == path
    })
}
