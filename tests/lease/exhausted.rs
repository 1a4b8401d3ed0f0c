//! When there is no memory for the copy it goes to disk; when there is no disk either, the process ends, and no byte
//! changes before.

use super::Disk;
use super::stopped::BreakTime;
use super::support::child::{argument, report, scenario};
use super::support::kernel::status;
use folio::{Backing, Snapshot};
use std::fs;
use std::path::PathBuf;

const LEN: usize = 8 << 20;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(Disk::of_the_build().path()).unwrap()
}

fn limit(resource: libc::__rlimit_resource_t, bytes: u64) {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: reads the one struct.
    assert_eq!(unsafe { libc::setrlimit(resource, &limit) }, 0);
}

/// No more address space than there is, and a little.
fn no_more_memory() {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    limit(libc::RLIMIT_AS, pages * 4096 + (4 << 20));
}

#[test]
fn without_memory_the_copy_goes_to_disk() {
    scenario!(|| {
        let folder = folder();
        let path = folder.path().join("file");
        fs::write(&path, vec![5; LEN]).unwrap();
        let snapshot = folio::open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::Leased);
        // Anonymous memory counts as data (Linux 4.7), mappings of files do not.
        limit(libc::RLIMIT_DATA, status("VmData") as u64 + (1 << 20));
        fs::write(&path, b"new").unwrap();
        assert_eq!(snapshot.backing(), Backing::Cloned);
        assert!(snapshot.iter().all(|&byte| byte == 5));
        assert!(snapshot.is_intact());
    })
    .succeed();
}

#[test]
fn above_its_memory_limit_the_copy_goes_to_disk() {
    scenario!(|| {
        let folder = folder();
        let path = folder.path().join("file");
        fs::write(&path, vec![5; LEN]).unwrap();
        let options = Snapshot::options().memory_limit(LEN as u64 - 1);
        let snapshot = options.open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::Leased);
        fs::write(&path, b"new").unwrap();
        assert_eq!(snapshot.backing(), Backing::Cloned);
        assert!(snapshot.iter().all(|&byte| byte == 5));
    })
    .succeed();
}

#[test]
fn without_memory_and_disk_the_process_ends_before_a_byte_changes() {
    let Some(_time) = BreakTime::of_seconds(2) else {
        return;
    };
    let folder = folder();
    let path = folder.path().join("file");
    fs::write(&path, vec![5; LEN]).unwrap();
    let mut child = scenario!(|| {
        let path = PathBuf::from(argument("PATH"));
        let snapshot = folio::open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::Leased);
        // SAFETY: takes numbers only.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        limit(libc::RLIMIT_FSIZE, 0);
        no_more_memory();
        report("holding");
        std::thread::spawn(move || {
            loop {
                if !snapshot.iter().all(|&byte| byte == 5) {
                    report("changed");
                }
            }
        });
        // Held until this process is gone.
        let _ = std::fs::File::options().write(true).open(&path);
        report("let in");
    });
    let outcome = child.argument("PATH", &path).run();
    assert_eq!(outcome.reports(), ["holding"]);
    assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{outcome:?}");
    let name = path.display().to_string();
    assert!(
        outcome.stderr.contains(&name),
        "the message names the file: {}",
        outcome.stderr
    );
    assert_eq!(fs::read(&path).unwrap(), vec![5; LEN]);
}
