//! The writers: they rewrite files that a process of readers holds, and measure how long they are held.

use crate::readers::{Hardship, SERVE, failures, word};
use crate::storm::Dice;
use crate::support::control_group::ControlGroup;
use crate::support::{self, kernel, skip};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes below the files, in a group of little memory.
const MEMORY: u64 = 64 << 20;

/// The control group of a child.
enum Group {
    None,
    Memory(ControlGroup),
    Pids(ControlGroup),
}

/// Rewrites files for that time. Fails if a byte changed under a reader, or if a process died.
pub fn run(kind: &str, disk: &Path, hardship: Hardship, seed: u64, time: Duration) {
    let dir = support::temp_dir_in(disk);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("open it to all");
    let (files, len) = hardship.files();
    let mut versions = vec![0; files];
    for file in 0..files {
        let path = dir.path().join(file.to_string());
        fs::write(&path, contents(file, 0, len)).expect("make the files");
        // For the readers that are not root: a lease is for the owner.
        std::os::unix::fs::chown(&path, owner(hardship), None).expect("give it");
    }
    fs::write(failures(dir.path()), b"").expect("make the list");
    fs::set_permissions(failures(dir.path()), fs::Permissions::from_mode(0o666)).expect("open it");
    let group = match hardship {
        Hardship::LittleMemory => {
            ControlGroup::with_memory(MEMORY).map_or(Group::None, Group::Memory)
        }
        Hardship::FewThreads => ControlGroup::with_pids().map_or(Group::None, Group::Pids),
        _ => Group::None,
    };
    let mut readers = start(dir.path(), hardship, seed, &group);
    let held = rewrite(
        dir.path(),
        hardship,
        seed,
        time,
        &mut versions,
        readers.id(),
    );
    drop(readers.stdin.take());
    let output = readers.wait_with_output().expect("wait for the readers");
    let failed = fs::read_to_string(failures(dir.path())).expect("read the list");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let is_documented = output.status.signal() == Some(libc::SIGABRT)
        && failed.is_empty()
        && errors.contains("stillmap: aborting");
    assert!(
        failed.is_empty() && (output.status.success() || is_documented),
        "{kind}, {hardship:?}: {}, {failed}{said}{errors}",
        output.status
    );
    let counts = said.lines().find_map(|line| line.strip_prefix("counts: "));
    println!(
        "{kind}, {hardship:?}: {} writers, held {:?} at most, {:?} in the median; {}",
        held.len(),
        held.last().copied().unwrap_or_default(),
        held.get(held.len() / 2).copied().unwrap_or_default(),
        counts.unwrap_or("ended by the documented abort"),
    );
}

fn owner(hardship: Hardship) -> Option<u32> {
    (hardship == Hardship::FewProcesses && support::is_root()).then_some(65534)
}

fn contents(file: usize, version: u64, len: usize) -> Vec<u8> {
    word(file, version).to_ne_bytes().repeat(len / 8)
}

fn start(dir: &Path, hardship: Hardship, seed: u64, group: &Group) -> Child {
    let number = Hardship::ALL.iter().position(|&other| other == hardship);
    let number = number.expect("one of all");
    let mut command = Command::new(std::env::current_exe().expect("own path"));
    command
        .args(["--exact", "the_readers", "--nocapture", "--test-threads=1"])
        .env(SERVE, format!("{number} {seed} {}", dir.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("start the readers");
    let joined = match group {
        Group::None => Ok(()),
        Group::Memory(group) => {
            fs::write(group.path().join("cgroup.procs"), child.id().to_string())
        }
        // libtest's main thread, the test and the monitor's two; at times one less.
        Group::Pids(group) => group.take(child.id(), 4 + (seed % 3) as u32),
    };
    if let Err(error) = joined {
        skip(format_args!("the readers cannot join a group: {error}"));
    }
    child
}

/// How long each writer was held, sorted.
fn rewrite(
    dir: &Path,
    hardship: Hardship,
    seed: u64,
    time: Duration,
    versions: &mut [u64],
    readers: u32,
) -> Vec<Duration> {
    let mut dice = Dice(seed.rotate_left(32) | 1);
    let (files, len) = hardship.files();
    let mut held = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let file = dice.below(files);
        let path = dir.join(file.to_string());
        versions[file] += 1;
        let bytes = contents(file, versions[file], len);
        let before = Instant::now();
        let writer = if hardship == Hardship::Stops {
            open_while_stopped(&path, readers)
        } else {
            open(&path)
        };
        held.push(before.elapsed());
        writer.write_all_at(&bytes, 0).expect("rewrite it");
        drop(writer);
        // The next one comes at any moment of the readers' opens.
        for _ in 0..dice.below(200) {
            thread::yield_now();
        }
    }
    held.sort();
    held
}

/// Opens a file of a process that is stopped, and goes on when this thread blocks, or has the file.
fn open_while_stopped(path: &PathBuf, process: u32) -> File {
    let this = kernel::thread_id();
    let is_open = AtomicBool::new(false);
    send(process, libc::SIGSTOP);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_open.load(Ordering::Relaxed) && !kernel::is_sleeping(this) {
                thread::yield_now();
            }
            send(process, libc::SIGCONT);
        });
        let file = open(path);
        is_open.store(true, Ordering::Relaxed);
        file
    })
}

fn open(path: &PathBuf) -> File {
    OpenOptions::new().write(true).open(path).expect("open it")
}

fn send(process: u32, signal: i32) {
    // SAFETY: the readers, which have not been waited for.
    unsafe { libc::kill(process as libc::pid_t, signal) };
}
