//! In a new PID namespace a forked child has the same process id as its parent: 1. It is a child all the same.

use super::support::child::{Forked, fork_into, scenario};
use super::support::{is_root, kernel, skip, temp_dir};
use std::fs;
use std::path::Path;
use stillmap::{Anonymous, Error, Exclusive, Snapshot};

/// Forks into a new PID namespace, where the child has the id 1. `None`, after saying why, where that is not allowed.
/// A process can do that once, and cannot start threads afterwards.
fn fork_as_first(body: impl FnOnce()) -> Option<Forked> {
    // SAFETY: takes flags.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        skip(format_args!("unshare: {}", std::io::Error::last_os_error()));
        return None;
    }
    let body = || {
        // Ends a child that waits for ever.
        // SAFETY: takes a number.
        unsafe { libc::alarm(120) };
        assert_eq!(std::process::id(), 1);
        body();
    };
    // SAFETY: other threads of this process hold no lock that `body` takes.
    Some(unsafe { fork_into(body) })
}

/// Runs `body`, with the path of a file of 4 MiB, in a process with the id 1.
fn as_first(body: impl FnOnce(&Path)) {
    if !is_root() {
        return skip("a PID namespace takes root");
    }
    let dir = temp_dir();
    let path = dir.path().join("file");
    fs::write(&path, vec![7; 4 << 20]).unwrap();
    if let Some(child) = fork_as_first(|| body(&path)) {
        child.succeed();
    }
}

/// Runs `body` in a child that has the same id as this process.
fn in_child(body: impl FnOnce()) {
    if let Some(child) = fork_as_first(body) {
        child.succeed();
    }
}

#[test]
fn locks_are_not_those_of_a_parent_with_the_same_id() {
    scenario!(|| as_first(|_| {
        let half = 4 * kernel::page_size();
        let memory = Anonymous::new(2 * half).unwrap();
        let inherited = memory.pages().lock(..half).unwrap();
        in_child(|| {
            assert!(!inherited.is_held());
            let own = memory.pages().lock(..half).unwrap();
            assert!(own.is_held());
            drop(own);
            // Counted with the parent's, the pages would stay locked.
            assert_eq!(kernel::status("VmLck"), 0);
            let own = memory.pages().lock(..).unwrap();
            drop(inherited);
            assert!(own.is_held());
        });
    }))
    .succeed();
}

#[test]
fn threads_are_not_those_of_a_parent_with_the_same_id() {
    scenario!(|| as_first(|path| {
        let bytes = Snapshot::open(path).unwrap();
        let prefetch = bytes.pages().prefetch(..).unwrap();
        let mut all = stillmap::open_all((0..1_000).map(|_| path));
        all.next().unwrap().unwrap();
        in_child(|| {
            assert!(bytes.iter().all(|&byte| byte == 7));
            drop(prefetch);
            let rest: Vec<_> = all.by_ref().filter(Result::is_err).collect();
            assert!(matches!(&rest[..], [Err(Error::WrongProcess { .. })]));
            drop(all);
            // It has threads and leases of its own.
            let own = stillmap::open_all([path; 100]);
            assert_eq!(own.filter(Result::is_ok).count(), 100);
            fs::write(path, b"new").unwrap();
            assert!(bytes.iter().all(|&byte| byte == 7));
        });
    }))
    .succeed();
}

#[test]
fn a_file_is_not_edited_by_a_child_with_the_same_id() {
    scenario!(|| as_first(|path| {
        let file = Exclusive::open(path).unwrap();
        let file = std::cell::RefCell::new(file);
        in_child(|| {
            let mut file = file.borrow_mut();
            assert!(matches!(file.flush(), Err(Error::WrongProcess { .. })));
            assert!(matches!(file.resize(0), Err(Error::WrongProcess { .. })));
        });
        assert!(file.borrow().iter().all(|&byte| byte == 7));
        assert!(Exclusive::open(path).is_err());
    }))
    .succeed();
}
