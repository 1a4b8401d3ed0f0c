//! Processes in which something is missing that a program takes for granted: each type works, or returns an error that says
//! what failed. It never panics, never ends the process, never blocks, and never returns other bytes.

use super::rows::{Row, TABLE, files};
use super::support::child::{argument, fork, report, scenario};
use super::support::kernel::{hard_limit, limit};
use super::support::limit_file_sizes;
use super::support::namespace::{bind, hide, mount, own_mounts};
use super::support::user::may_be_others;
use crate::skip;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// Only against a hang: no test depends on how long anything takes.
const TIMEOUT: u32 = 200;
const SIGNAL_INTERVAL: Duration = Duration::from_micros(700);

struct Hardship {
    name: &'static str,
    /// Makes it, for this process; false where it cannot be made.
    make: fn(&Path) -> bool,
    /// What fails, since it cannot be otherwise.
    fails: &'static [&'static str],
}

const TO_DISK: &[&str] = &["Snapshot, to disk", "Draft", "Exclusive", "Shared, a file"];

/// What maps, or has in memory, more than a megabyte.
const LARGE: &[&str] = &[
    "Snapshot, leased",
    "Snapshot, without a lease",
    "Snapshot, to disk",
    "Snapshot::from_file",
    "open_all",
    "Private",
    "Anonymous",
    "Draft",
    "Exclusive",
    "Live",
    "pages",
];

const ALL_BUT_ANONYMOUS: &[&str] = &[
    "Snapshot, small",
    "Snapshot, leased",
    "Snapshot, without a lease",
    "Snapshot, to disk",
    "Snapshot::from_file",
    "open_all",
    "Private",
    "Draft",
    "Exclusive",
    "Shared, a file",
    "Shared, a memfd",
    "Live",
    "fork",
    "pages",
];

const HARDSHIPS: &[Hardship] = &[
    Hardship {
        name: "no /proc",
        make: |_| hidden(&["/proc"]),
        fails: &["Exclusive"],
    },
    Hardship {
        name: "no /sys",
        make: |_| hidden(&["/sys"]),
        fails: &[],
    },
    Hardship {
        name: "no /dev",
        make: |_| hidden(&["/dev"]),
        fails: &[],
    },
    Hardship {
        name: "no directory for temporary files",
        make: |dir| {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var("TMPDIR", "/there/is/none") };
            !is_in_any(dir, &TEMPORARY) && hidden(&TEMPORARY)
        },
        fails: &[],
    },
    Hardship {
        name: "nothing may be written to",
        make: read_only,
        fails: TO_DISK,
    },
    Hardship {
        name: "the current directory is deleted",
        make: |dir| {
            let current = dir.join("current");
            fs::create_dir(&current).unwrap();
            std::env::set_current_dir(&current).unwrap();
            fs::remove_dir(current).unwrap();
            true
        },
        fails: &[],
    },
    Hardship {
        name: "umask 777",
        make: |_| {
            // SAFETY: takes a number.
            unsafe { libc::umask(0o777) };
            true
        },
        fails: &[],
    },
    Hardship {
        name: "no environment",
        make: |_| {
            // SAFETY: this process has one thread.
            unsafe { libc::clearenv() };
            true
        },
        fails: &[],
    },
    Hardship {
        name: "no standard descriptors",
        make: |_| {
            // SAFETY: no code of this process writes to them any more.
            unsafe { assert_eq!([0, 1, 2].map(|fd| libc::close(fd)), [0; 3]) };
            true
        },
        fails: &[],
    },
    Hardship {
        name: "`ulimit -n`: 2 left",
        make: |_| {
            let used = fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
            limit(libc::RLIMIT_NOFILE, used + 2);
            true
        },
        fails: &["Draft", "Exclusive", "fork"],
    },
    Hardship {
        name: "`ulimit -n`: none left",
        make: |_| {
            limit(libc::RLIMIT_NOFILE, 0);
            true
        },
        fails: ALL_BUT_ANONYMOUS,
    },
    Hardship {
        name: "`ulimit -f 0`",
        make: |_| {
            limit_file_sizes(0);
            true
        },
        fails: &[
            "Snapshot, to disk",
            "Draft",
            "Shared, a file",
            "Shared, a memfd",
            "fork",
        ],
    },
    Hardship {
        name: "`ulimit -v`: 1 MiB left",
        make: |_| {
            let pages = fs::read_to_string("/proc/self/statm").unwrap();
            let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
            limit(libc::RLIMIT_AS, pages * 4096 + (1 << 20));
            true
        },
        fails: LARGE,
    },
    Hardship {
        name: "`ulimit -l 0`, and a user that has no name",
        make: |dir| {
            hard_limit(libc::RLIMIT_MEMLOCK, 0);
            is_user(dir, 54321)
        },
        fails: &[],
    },
    Hardship {
        name: "a user namespace that maps no user",
        make: |_| {
            // SAFETY: takes a number; this process has one thread.
            let made = unsafe { libc::unshare(libc::CLONE_NEWUSER) } == 0;
            if !made {
                skip(format_args!("unshare: {}", std::io::Error::last_os_error()));
            }
            made
        },
        fails: &[],
    },
    Hardship {
        name: "children are not waited for: SIGCHLD is ignored",
        make: |_| {
            // SAFETY: takes numbers.
            unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
            true
        },
        fails: &[],
    },
    Hardship {
        name: "all signals are blocked",
        make: |_| {
            // SAFETY: fills a set, which is a plain value, and reads it.
            unsafe {
                let mut all = std::mem::zeroed();
                libc::sigfillset(&mut all);
                // The timeout of this test.
                libc::sigdelset(&mut all, libc::SIGALRM);
                libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
            }
            true
        },
        fails: &[],
    },
    Hardship {
        name: "a signal every 0.7 ms, which interrupts system calls",
        make: |_| {
            interrupt();
            true
        },
        fails: &[],
    },
];

fn hidden(dirs: &[&str]) -> bool {
    let own = own_mounts();
    if own {
        dirs.iter().for_each(hide);
    }
    own
}

/// Directories that any user may write to, by default.
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// True, after saying so, if the files of the test would be hidden as well.
fn is_in_any(dir: &Path, hidden: &[&str]) -> bool {
    let is_in = hidden.iter().any(|hidden| dir.starts_with(hidden));
    if is_in {
        skip(format_args!("the build directory is in {dir:?}"));
    }
    is_in
}

fn read_only(dir: &Path) -> bool {
    if is_in_any(dir, &TEMPORARY) || !own_mounts() {
        return false;
    }
    let root = Path::new("/");
    bind(dir, dir);
    for mounted in [dir, root] {
        let flags = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
        mount("none", mounted, None, flags, "");
    }
    for dir in TEMPORARY {
        let small = libc::MS_RDONLY;
        mount("tmpfs", Path::new(dir), Some("tmpfs"), small, "");
    }
    true
}

/// With files and directory of its own.
fn is_user(dir: &Path, user: u32) -> bool {
    if !may_be_others() {
        return false;
    }
    let mut paths = vec![dir.to_path_buf()];
    paths.extend(
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    for path in paths {
        std::os::unix::fs::chown(&path, Some(user), Some(user)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    // SAFETY: takes numbers; this process has one thread.
    let done = unsafe {
        [
            libc::setgroups(0, std::ptr::null()),
            libc::setresgid(user, user, user),
            libc::setresuid(user, user, user),
        ]
    };
    assert_eq!(done, [0; 3], "{}", std::io::Error::last_os_error());
    true
}

extern "C" fn ignore(_: libc::c_int) {}

/// A handler without SA_RESTART, and a timer.
fn interrupt() {
    let interval = libc::timespec {
        tv_sec: 0,
        tv_nsec: SIGNAL_INTERVAL.as_nanos() as libc::c_long,
    };
    let times = libc::itimerspec {
        it_interval: interval,
        it_value: interval,
    };
    // SAFETY: structs of zeros are valid, the handler does nothing, and the calls read structs and write one id.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ignore as *const () as usize;
        let mut event: libc::sigevent = std::mem::zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGUSR1;
        let (mut timer, none) = (std::mem::zeroed(), std::ptr::null_mut());
        [
            libc::sigaction(libc::SIGUSR1, &action, none),
            libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer),
            libc::timer_settime(timer, 0, &times, std::ptr::null_mut()),
        ]
    };
    assert_eq!(done, [0; 3], "{}", std::io::Error::last_os_error());
}

#[test]
fn each_type_in_each_hardship() {
    let mut child = scenario!(|| {
        let name = argument("HARDSHIP").into_string().unwrap();
        let hardship = HARDSHIPS.iter().find(|known| known.name == name).unwrap();
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = files(parent);
        let can_be = fork(|| std::process::exit(i32::from(!(hardship.make)(dir.path()))));
        if !can_be.wait().success() {
            return;
        }
        for row in TABLE.iter().filter(|row| row.works(parent)) {
            report(run(row, hardship, parent));
        }
    });
    let mut wrong = Vec::new();
    for hardship in HARDSHIPS {
        let outcome = child.argument("HARDSHIP", hardship.name).succeed();
        for line in outcome.reports() {
            println!("{}: {line}", hardship.name);
            if line.starts_with("wrong: ") {
                wrong.push(format!("{}: {line}\n{}", hardship.name, outcome.stderr));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs a row in a process with a hardship.
fn run(row: &Row, hardship: &Hardship, parent: &Path) -> String {
    const FAILED: i32 = 3;
    let dir = files(parent);
    let child = fork(|| {
        // SAFETY: takes a number; the signal ends this process.
        unsafe { libc::alarm(TIMEOUT) };
        assert!((hardship.make)(dir.path()));
        if let Err(error) = (row.run)(dir.path()) {
            report(format_args!("{}: {error}", row.name));
            // SAFETY: ends this process.
            unsafe { libc::_exit(FAILED) };
        }
    });
    let status = child.wait();
    match status.code() {
        Some(0) => format!("{} works", row.name),
        Some(FAILED) if hardship.fails.contains(&row.name) => format!("{} fails", row.name),
        _ => format!("wrong: {}: {status}", row.name),
    }
}
