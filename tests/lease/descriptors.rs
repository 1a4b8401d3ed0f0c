//! Leases and descriptors: many of them, above a limit, and those of the standard streams.

use super::attacked::{leases_of, wait_unreaped};
use super::support::child::{fork, fork_into, report, scenario};
use super::support::kernel::{hard_limit, limit, may_open};
use super::support::pipe::pipe_of_files;
use super::support::{exclusive, file_with, is_root, skip, user};
use super::{Folder, leased};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use stillmap::{Backing, Snapshot};

/// Reports how long a fork takes.
fn time(what: &str) {
    let mut all: Vec<_> = (0..20)
        .map(|_| {
            let start = std::time::Instant::now();
            // SAFETY: the child ends at once.
            let child = unsafe { fork_into(|| ()) };
            let returned = start.elapsed();
            child.succeed();
            (start.elapsed(), returned)
        })
        .collect();
    all.sort();
    let (whole, returned) = all[all.len() / 2];
    report(format_args!(
        "{what}: fork returns after {returned:?}, the child has ended after {whole:?} (median of 20)"
    ));
}

/// A fork with a thousand leases: what it costs is printed; the child has all bytes, and keeps back no writer.
#[test]
fn fork_with_a_thousand_leases() {
    const LEN: usize = 64 << 10;
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        // The child has a description of its own for each, before it closes its parent's.
        if !may_open(2000) {
            return;
        }
        let path = |number: usize| folder.path().join(number.to_string());
        time("no lease");
        let open = |number: usize| {
            fs::write(path(number), vec![5; LEN]).unwrap();
            leased(|| Snapshot::options().copy_limit(0).open(path(number)))
        };
        let mut all = vec![open(0)];
        time("one lease");
        all.extend((1..1000).map(open));
        time("1,000 leases");
        let are_right = |all: &[Snapshot]| {
            let is_right = |snapshot: &Snapshot| snapshot[..] == [5; LEN];
            all.iter().all(|one| one.is_consistent() && is_right(one))
        };
        let (mut is_ready, mut ready) = pipe_of_files();
        let (mut is_written, mut written) = pipe_of_files();
        let look = || {
            assert!(are_right(&all), "in the child");
            ready.write_all(&[0]).unwrap();
            is_written.read_exact(&mut [0]).unwrap();
            assert!(are_right(&all), "in the child, after the writers");
        };
        // SAFETY: the child makes system calls only, and its threads take no lock that the parent's have.
        let child = unsafe { fork_into(look) };
        is_ready.read_exact(&mut [0]).unwrap();
        // Both processes copy.
        for number in (0..1000).step_by(20) {
            fs::write(path(number), b"new").unwrap();
        }
        written.write_all(&[0]).unwrap();
        child.succeed();
        assert!(are_right(&all), "in the parent");
        drop(all);
        time("no lease any more");
    })
    .succeed()
    .reports()
    .iter()
    .for_each(|line| println!("{line}"));
}

fn leave_nothing(path: &Path, is_hard: bool, is_nobody: bool) {
    let (end, hold) = pipe_of_files();
    let copy = hold.as_raw_fd();
    let (mut go, tell) = pipe_of_files();
    let parent = fork(|| {
        // SAFETY: this process's own copy, which it uses for nothing else.
        unsafe { libc::close(copy) };
        if is_nobody {
            user::become_nobody();
        }
        let snapshot = leased(|| Snapshot::open(path));
        if is_hard {
            hard_limit(libc::RLIMIT_NOFILE, 3);
        } else {
            limit(libc::RLIMIT_NOFILE, 3);
        }
        let wait = || {
            (&tell)
                .write_all(&[u8::from(snapshot.is_consistent())])
                .unwrap();
            drop((&end).read(&mut [0]));
            drop(snapshot);
        };
        // SAFETY: the child makes system calls only.
        let _ = unsafe { fork_into(wait) };
        loop {
            thread::park();
        }
    });
    let mut is_consistent = [0];
    go.read_exact(&mut is_consistent).unwrap();
    parent.kill();
    wait_unreaped(&parent);
    assert_eq!(leases_of(parent.id(), path), 0, "{is_hard} {is_nobody}");
    let _ = parent.wait();
    drop(hold);
}

/// The kind of "a child keeps descriptors": the program lowers its limit on descriptors below the numbers that it has.
/// dup3(2) takes none of these any more, and a child kept its parent's lease. First the soft limit, then the hard one, of
/// root and of a user that may not raise it again.
#[test]
fn a_lowered_limit_on_descriptors_leaves_nothing_in_a_child() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        fs::write(&path, vec![5; 2 << 20]).unwrap();
        let world = fs::Permissions::from_mode(0o777);
        fs::set_permissions(folder.path(), world).unwrap();
        let may_be_nobody = user::may_be_nobody();
        for (is_hard, is_nobody) in [(false, false), (true, false), (true, true)] {
            if is_nobody && !may_be_nobody {
                continue;
            }
            if is_nobody && is_root() {
                std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
            }
            leave_nothing(&path, is_hard, is_nobody);
        }
    })
    .succeed();
}

/// A program that has closed its standard input gets the number for the next file, and safe code may put another file there
/// (`rustix::stdio::dup2_stdin`). Before: the lease of an `Exclusive` ended with that, and a byte changed under `&mut [u8]`.
#[test]
fn a_file_put_in_place_of_standard_input_ends_no_lease() {
    scenario!(|| {
        let Some(system) = exclusive::any_system() else {
            return;
        };
        let path = file_with(system.path(), "file", &[5; 5000]);
        // SAFETY: nothing uses these numbers meanwhile.
        unsafe {
            libc::close(0);
            libc::close(2);
        }
        let file = exclusive::open(&path);
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap();
        for number in [0, 2] {
            // SAFETY: takes numbers.
            assert_eq!(unsafe { libc::dup2(null.as_raw_fd(), number) }, number);
        }
        let mut options = File::options();
        options.write(true).custom_flags(libc::O_NONBLOCK);
        let opened = options.open(&path).map(drop);
        assert_eq!(opened.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        assert_eq!(file.backing(), Backing::Leased);
        assert!(file[..] == [5; 5000]);
    })
    .succeed();
}

/// The files that others of this test have open, which come to be under numbers of the crate.
struct Others {
    path: PathBuf,
    files: Vec<File>,
}

impl Others {
    fn open(folder: &Path) -> Self {
        let path = file_with(folder, "other", &vec![9; LEASED]);
        Others::of(&path, File::options().read(true).write(true))
    }

    fn of(path: &Path, options: &fs::OpenOptions) -> Self {
        let files = (0..60).map(|_| options.open(path).unwrap()).collect();
        let path = path.to_path_buf();
        Others { path, files }
    }

    fn assert_untouched(&self) {
        let number = fs::metadata(&self.path).unwrap().ino();
        for file in &self.files {
            assert_eq!(file.metadata().unwrap().ino(), number);
        }
    }
}

const LEASED: usize = 4 << 20;

/// Attack: the program closes every descriptor (a daemon does; `nix::unistd::close` is safe). Before: aborted at 40.5 s.
#[test]
fn a_descriptor_that_was_closed_by_its_number_changes_no_byte() {
    scenario!(|| closed_by_number(|_, _| None)).succeed();
}

/// The same, and other files get the numbers. Before: the bytes of another file came to be in the snapshot.
#[test]
fn a_number_that_leads_to_another_file_changes_no_byte() {
    scenario!(|| closed_by_number(|folder, _| Some(Others::open(folder)))).succeed();
}

/// The same, and the numbers lead to the leased file again. Before: the program's own descriptor led to an empty file.
#[test]
fn a_number_that_leads_to_the_file_again_changes_no_byte() {
    scenario!(|| closed_by_number(|_, path| Some(Others::of(path, File::options().read(true)))))
        .succeed();
}

/// The same, by a descriptor that cannot be read: the bytes cannot come from it.
#[test]
fn a_number_that_only_names_the_file_changes_no_byte() {
    scenario!(|| {
        let by_name = |path: &Path| {
            let mut options = File::options();
            Others::of(path, options.read(true).custom_flags(libc::O_PATH))
        };
        closed_by_number(|_, path| Some(by_name(path)))
    })
    .succeed();
}

/// The same, and the numbers lead to files with leases of their own. Before: the writer waited for the whole break time, and
/// the bytes changed.
#[test]
fn a_number_that_leads_to_another_lease_changes_no_byte() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file_with(folder.path(), "file", &[5; LEASED]);
        let snapshot = leased(|| Snapshot::open(&path));
        close_all_numbers();
        let others: Vec<_> = (0..30)
            .map(|n| {
                let other = file_with(folder.path(), &n.to_string(), &[9; LEASED]);
                leased(|| Snapshot::open(&other))
            })
            .collect();
        fs::write(&path, b"new").unwrap();
        assert!(snapshot.iter().all(|&byte| byte == 5));
        assert_eq!(snapshot.backing(), Backing::Memory);
        assert!(!snapshot.is_consistent());
        for (n, other) in others.iter().enumerate() {
            fs::write(folder.path().join(n.to_string()), b"new").unwrap();
            assert!(other.iter().all(|&byte| byte == 9));
        }
        // Its number belongs to another file.
        std::mem::forget(snapshot);
    })
    .succeed();
}

/// As a daemon closes what it inherited. No file of the test that is open is used any more.
fn close_all_numbers() {
    for number in 3..1000 {
        // SAFETY: takes a number.
        unsafe { libc::close(number) };
    }
}

fn closed_by_number(reuse: impl FnOnce(&Path, &Path) -> Option<Others>) {
    let Some(folder) = Folder::new() else {
        return;
    };
    let path = file_with(folder.path(), "file", &[5; LEASED]);
    let snapshot = leased(|| Snapshot::open(&path));
    close_all_numbers();
    let others = reuse(folder.path(), &path);
    fs::write(&path, b"new").unwrap();
    assert!(snapshot.iter().all(|&byte| byte == 5));
    assert_eq!(snapshot.backing(), Backing::Memory);
    // Only a descriptor of the file tells whether the lease held until then.
    let is_known = others.as_ref().is_some_and(|others| others.path == path);
    assert!(is_known || !snapshot.is_consistent());
    if let Some(others) = &others {
        others.assert_untouched();
    }
    // Its number belongs to another file.
    std::mem::forget(snapshot);
}

/// Attack: a thread has descriptors of its own (`nix::sched::unshare` is safe). Before: the bytes of another file came to
/// be in its snapshot, and a descriptor of the program led to an empty file.
#[test]
fn a_thread_with_descriptors_of_its_own_reads_its_file() {
    scenario!(|| with_own_descriptors(|_| ())).succeed();
}

/// The same, and the numbers are those of other leases of the process. Before: the bytes changed.
#[test]
fn a_thread_with_descriptors_of_its_own_has_its_lease() {
    scenario!(|| {
        with_own_descriptors(|folder| {
            let open = |n: u32| {
                let path = file_with(folder, &n.to_string(), &[9; LEASED]);
                leased(|| Snapshot::open(&path))
            };
            (0..30).map(open).collect::<Vec<_>>()
        });
    })
    .succeed();
}

/// `meanwhile` is run by a thread with the descriptors of the process.
fn with_own_descriptors<T>(meanwhile: impl FnOnce(&Path) -> T) {
    let Some(folder) = Folder::new() else {
        return;
    };
    // Starts the lease threads.
    let first = file_with(folder.path(), "first", &[5; LEASED]);
    let first = leased(|| Snapshot::open(&first));
    let path = &file_with(folder.path(), "file", &[5; LEASED]);
    let (send, snapshots) = mpsc::channel();
    let (done, wait) = mpsc::channel::<()>();
    let open = move || {
        // SAFETY: takes a number.
        if unsafe { libc::unshare(libc::CLONE_FILES) } != 0 {
            return skip("unshare(2) is refused");
        }
        send.send(leased(|| Snapshot::open(path))).unwrap();
        let _ = wait.recv();
    };
    thread::scope(|scope| {
        let opener = scope.spawn(open);
        let Ok(snapshot) = snapshots.recv() else {
            return;
        };
        let _leases = meanwhile(folder.path());
        let others = Others::open(folder.path());
        let writer = scope.spawn(|| fs::write(path, b"new").unwrap());
        let start = Instant::now();
        while snapshot.backing() == Backing::Leased && start.elapsed() < Duration::from_secs(30) {
            thread::yield_now();
        }
        assert_eq!(snapshot.backing(), Backing::Memory);
        assert!(snapshot.iter().all(|&byte| byte == 5));
        others.assert_untouched();
        // The lease ends with the descriptors of that thread.
        drop(done);
        opener.join().unwrap();
        writer.join().unwrap();
        // Its number belongs to another file here.
        std::mem::forget(snapshot);
    });
    drop(first);
}
