//! A process that is stopped for longer than the lease-break time: what it finds afterwards.

use crate::support::break_time::BreakTime;
use crate::support::leased::{Folder, leased};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

const SERVE: &str = "STILLMAP_TEST_STOPPED";

/// The process that is stopped: it has a snapshot, and reports its state on request.
#[test]
fn the_stopped_process() {
    let Some(path) = std::env::var_os(SERVE) else {
        return;
    };
    let snapshot = leased(|| stillmap::Snapshot::open(&path));
    println!("\nbacking: {:?}", snapshot.backing());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    // At once: the answer must not wait for the copy of the bytes.
    println!("\nintact: {}", snapshot.is_consistent());
    std::process::exit(0);
}

fn consistency_after(folder: &Folder, write: impl FnOnce(&Path)) -> String {
    let path = folder.path().join("file");
    fs::write(&path, vec![5; 2 << 20]).unwrap();
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stopped::the_stopped_process", "--nocapture"])
        .env(SERVE, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut answer = |name: &str| {
        let found = lines.find_map(|line| Some(line.unwrap().strip_prefix(name)?.to_string()));
        found.unwrap()
    };
    assert_eq!(answer("backing: "), "Leased");
    let id = process.id() as libc::pid_t;
    // SAFETY: our own child, not waited for yet.
    assert_eq!(unsafe { libc::kill(id, libc::SIGSTOP) }, 0);
    // Waits until the lease-break time is over.
    write(&path);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(id, libc::SIGCONT) }, 0);
    stdin.write_all(b"\n").unwrap();
    let intact = answer("intact: ");
    assert!(process.wait().unwrap().success());
    intact
}

#[test]
fn a_file_that_was_written_to_meanwhile_is_not_intact() {
    let (Some(_time), Some(folder)) = (BreakTime::of(1), Folder::new()) else {
        return;
    };
    let intact = consistency_after(&folder, |path| fs::write(path, vec![6; 2 << 20]).unwrap());
    assert_eq!(intact, "false");
}

#[test]
fn a_file_that_was_only_opened_meanwhile_is_intact() {
    let (Some(_time), Some(folder)) = (BreakTime::of(1), Folder::new()) else {
        return;
    };
    let intact = consistency_after(&folder, |path| {
        drop(OpenOptions::new().write(true).open(path).unwrap())
    });
    assert_eq!(intact, "true");
}
