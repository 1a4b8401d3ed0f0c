//! When there is neither memory nor disk for the copy, the process ends, and no byte changes before.

use crate::support::break_time::BreakTime;
use crate::support::child::{argument, report, scenario};
use crate::support::leased::{Folder, leased};
use std::fs;
use std::path::PathBuf;
use stillmap::Snapshot;

const LEN: usize = 8 << 20;

fn limit(resource: crate::support::kernel::Resource, bytes: u64) {
    let limit = libc::rlimit64 {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: reads the one struct.
    assert_eq!(unsafe { libc::setrlimit64(resource, &limit) }, 0);
}

#[test]
fn without_memory_and_disk_the_process_ends_before_a_byte_changes() {
    let mut child = scenario!(|| {
        let path = PathBuf::from(argument("PATH"));
        let snapshot = leased(|| Snapshot::options().memory_limit(0).open(&path));
        // SAFETY: takes numbers only.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        limit(libc::RLIMIT_FSIZE, 0);
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
    let Some(_time) = BreakTime::of(2) else {
        return;
    };
    let Some(folder) = Folder::new() else {
        return;
    };
    let path = folder.path().join("file");
    fs::write(&path, vec![5; LEN]).unwrap();
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
