//! Each system call that a type makes, refused by a seccomp filter: the type does without it, or returns an error that says
//! what was refused. It never panics, never ends the process, never blocks, and never returns other bytes.

use super::rows::{Row, TABLE, files};
use super::support::child::{argument, fork, report, scenario};
use super::support::refuse::refuse;
use super::support::trace::{Traced, stop_here};
use std::collections::BTreeSet;
use std::env::temp_dir;
use std::error::Error;
use std::io;

/// Only against a hang: no test depends on how long anything takes.
const TIMEOUT: u32 = 200;

/// What the C library, the standard library and this test need; glibc ends the process without rseq(2). The standard library
/// panics without a clock, which is a system call where the kernel has no vDSO.
const OF_OTHERS: [libc::c_long; 14] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_munmap,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_write,
];

/// Every row needs these.
const BY_ALL: &[libc::c_long] = &[
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_mmap,
    libc::SYS_openat,
    libc::SYS_pread64,
];

/// What musl makes instead of openat(2) and clone(2).
#[cfg(all(target_env = "musl", target_arch = "x86_64"))]
const OF_MUSL: &[libc::c_long] = &[libc::SYS_open, libc::SYS_fork];
#[cfg(not(all(target_env = "musl", target_arch = "x86_64")))]
const OF_MUSL: &[libc::c_long] = &[];

/// The other system calls that a row cannot do without.
fn needs(row: &str) -> &'static [libc::c_long] {
    match row {
        "Snapshot, to disk" => &[libc::SYS_ftruncate],
        "Anonymous" => &[libc::SYS_mprotect, libc::SYS_mremap],
        "Draft" => &[
            libc::SYS_fchmod,
            libc::SYS_fsync,
            libc::SYS_ftruncate,
            libc::SYS_linkat,
            libc::SYS_newfstatat,
            libc::SYS_pwrite64,
            libc::SYS_renameat,
        ],
        // clone3: the C library takes another call where it is unknown, and none where it is refused.
        "Exclusive" => &[
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_fdatasync,
            libc::SYS_fstatfs,
            libc::SYS_ioctl,
            libc::SYS_mprotect,
            libc::SYS_newfstatat,
            libc::SYS_userfaultfd,
        ],
        "Shared, a file" => &[libc::SYS_mprotect, libc::SYS_msync, libc::SYS_rt_sigaction],
        "Shared, a memfd" => &[
            libc::SYS_ftruncate,
            libc::SYS_memfd_create,
            libc::SYS_mprotect,
            libc::SYS_rt_sigaction,
        ],
        "Live" => &[libc::SYS_mprotect, libc::SYS_rt_sigaction],
        "fork" => &[
            libc::SYS_clone,
            libc::SYS_ftruncate,
            libc::SYS_memfd_create,
            libc::SYS_mprotect,
            libc::SYS_pipe2,
            libc::SYS_waitid,
        ],
        _ => &[],
    }
}

/// The system calls that a row makes, but for [`OF_OTHERS`].
fn calls(row: &Row) -> BTreeSet<libc::c_long> {
    let dir = files(&temp_dir());
    let child = fork(|| {
        stop_here();
        let _ = (row.run)(dir.path());
    });
    let mut traced = Traced::new(child.id());
    let mut calls = BTreeSet::new();
    while traced.step() {
        calls.extend(traced.entering());
    }
    calls.retain(|call| !OF_OTHERS.contains(call));
    if cfg!(target_env = "musl") {
        // Its allocator has no other way to get memory.
        calls.remove(&libc::SYS_mmap);
    }
    calls
}

/// Runs a row with one system call refused; reports an error.
fn refused(row: &Row, call: libc::c_long, errno: i32) {
    let dir = files(&temp_dir());
    let child = fork(|| {
        // SAFETY: takes a number; the signal ends this process.
        unsafe { libc::alarm(TIMEOUT) };
        refuse(call, errno);
        if let Err(error) = (row.run)(dir.path()) {
            let is_clear = if says_why(&*error, errno) {
                "clear"
            } else {
                "unclear"
            };
            report(format_args!("{call} {is_clear} {error}"));
        }
    });
    let status = child.wait();
    if !status.success() {
        report(format_args!("{call} died {status}"));
    }
}

/// True for an error with that errno, and for one that says it in words.
fn says_why(error: &(dyn Error + 'static), errno: i32) -> bool {
    let has_errno = |error: &(dyn Error + 'static)| {
        let os = error.downcast_ref::<io::Error>();
        os.is_some_and(|os| os.raw_os_error() == Some(errno))
    };
    let text = error.to_string();
    let in_words = ["cannot be protected", "no room", "a child failed"];
    has_errno(error)
        || error.source().is_some_and(|source| says_why(source, errno))
        || in_words.iter().any(|words| text.starts_with(words))
}

#[test]
fn each_call_of_each_type_is_refused() {
    let mut child = scenario!(|| {
        let name = argument("ROW").into_string().unwrap();
        let row = TABLE.iter().find(|row| row.name == name).unwrap();
        if !Traced::is_possible() || !row.works(&temp_dir()) {
            return;
        }
        for call in calls(row) {
            for errno in [libc::EPERM, libc::ENOSYS] {
                // pthread_create(3) of musl ignores this error, and stores to pages without access.
                let is_fatal = cfg!(target_env = "musl") && call == libc::SYS_mprotect;
                if !(is_fatal && errno == libc::ENOSYS) {
                    refused(row, call, errno);
                }
            }
        }
    });
    let mut wrong = Vec::new();
    for row in TABLE {
        let outcome = child.argument("ROW", row.name).succeed();
        for line in outcome.reports() {
            println!("{}: {line}", row.name);
            let mut words = line.split(' ');
            let call = words.next().unwrap().parse().unwrap();
            let needed = [BY_ALL, OF_MUSL, needs(row.name)];
            let is_needed = needed.iter().any(|calls| calls.contains(&call));
            if !is_needed || words.next() != Some("clear") {
                wrong.push(format!("{}: {line}\n{}", row.name, outcome.stderr));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
