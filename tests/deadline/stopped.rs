//! A process that is stopped for longer than the lease-break time: what it finds afterwards.

use crate::support::break_time::BreakTime;
use crate::support::child::{argument, fork, report, scenario};
use crate::support::exclusive::systems;
use crate::support::file_with;
use crate::support::kernel;
use crate::support::leased::{Folder, leased};
use crate::support::pipe::pipe_of_files;
use crate::support::random::seed;
use crate::support::refuse::hold;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use stillmap::{Error, Shared};

/// Bytes of its file.
const LEN: usize = 2 << 20;

const SERVE: &str = "STILLMAP_TEST_STOPPED";

/// The process that is stopped: it has a snapshot, and reports its state on request.
#[test]
fn the_stopped_process() {
    let Some(path) = std::env::var_os(SERVE) else {
        return;
    };
    // No read of the copy returns, so the copying thread does not find out.
    let _reads = hold(libc::SYS_pread64, (2, u32::MAX, LEN as u32));
    let snapshot = leased(|| {
        stillmap::Snapshot::options()
            .require_mapping(true)
            .open(&path)
    });
    println!("\nbacking: {:?}", snapshot.backing());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    // At once: the answer must not wait for the copy of the bytes.
    println!("\nintact: {}", snapshot.is_consistent());
    std::process::exit(0);
}

fn consistency_after(folder: &Folder, write: impl FnOnce(&Path)) -> String {
    let path = folder.path().join("file");
    fs::write(&path, vec![5; LEN]).unwrap();
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
    let intact = consistency_after(&folder, |path| fs::write(path, vec![6; LEN]).unwrap());
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

/// The process is stopped just before a writer comes, and continues a little later. Before: it took the break for one of
/// that moment, and so did not end in time: a byte changed under `Leased`.
#[test]
fn a_break_that_began_while_the_process_was_stopped_ends_no_later() {
    const LEN: usize = 4 << 20;
    let mut child = scenario!(|| {
        let path = PathBuf::from(argument("PATH"));
        let (mut is_leased, mut leases) = pipe_of_files();
        // SAFETY: takes nothing.
        let reader = unsafe { libc::getpid() };
        let signal = |signal| {
            // SAFETY: this process, which is the parent of the one that calls this.
            assert_eq!(unsafe { libc::kill(reader, signal) }, 0);
        };
        let writer = fork(|| {
            is_leased.read_exact(&mut [0]).unwrap();
            signal(libc::SIGSTOP);
            while !kernel::is_stopped(reader) {
                thread::yield_now();
            }
            let (is_started, started) = mpsc::channel();
            let writing = thread::spawn({
                let path = path.clone();
                move || {
                    is_started.send(kernel::thread_id()).unwrap();
                    fs::write(path, vec![6; LEN]).unwrap();
                }
            });
            let thread = started.recv().unwrap();
            while !kernel::is_sleeping(thread) {
                thread::yield_now();
            }
            // Time has to pass: less than a quarter of the break time.
            thread::sleep(Duration::from_millis(1500));
            signal(libc::SIGCONT);
            writing.join().unwrap();
        });
        // No read of the copy returns.
        let _reads = hold(libc::SYS_pread64, (2, u32::MAX, LEN as u32));
        let snapshot = leased(|| stillmap::Snapshot::open(&path));
        report("holding");
        leases.write_all(&[0]).unwrap();
        while snapshot.iter().all(|&byte| byte == 5) {}
        report("changed");
        drop(writer);
    });
    let (Some(_time), Some(folder)) = (BreakTime::of(8), Folder::new()) else {
        return;
    };
    let path = file_with(folder.path(), "file", &vec![5; LEN]);
    let outcome = child.argument("PATH", &path).run();
    assert_eq!(outcome.reports(), ["holding"], "{outcome:?}");
    assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{outcome:?}");
}

/// The number that each page of an edited file has.
fn numbers(bytes: &[u8]) -> Vec<u64> {
    let number = |page: &[u8]| u64::from_le_bytes(page[..8].try_into().unwrap());
    bytes.chunks(4096).map(number).collect()
}

/// Edits a file until `progress[1]` is 1: stores 1 into each page, then 2, and so on. `progress[0]` is the last number that
/// all pages have.
fn edit(path: &Path, progress: &[AtomicU64; 2]) {
    let mut file = crate::support::exclusive::open(path);
    let mut number = 0_u64;
    while progress[1].load(Ordering::Relaxed) == 0 {
        number += 1;
        // Downwards: who reads upwards finds no page behind the one before it.
        for page in file.chunks_mut(4096).rev() {
            page[..8].copy_from_slice(&number.to_le_bytes());
        }
        progress[0].store(number, Ordering::Release);
    }
    // What another process may read is its own.
    assert!(numbers(&file).iter().all(|&page| page == number));
    match file.close() {
        Err(Error::LeaseLost { .. }) => {}
        // The kernel had made a read lease of it, for a reader.
        Ok(()) => assert!(numbers(&fs::read(path).unwrap()) == [number; 512]),
        Err(error) => panic!("{error}"),
    }
}

/// A process that edits a file is stopped while another one opens it, for any time. Whether it gives the file up by itself,
/// the kernel takes it away, or the process ends with its message: the other one has every store made before.
#[test]
fn no_store_is_lost_however_long_an_editor_is_stopped() {
    let mut child = scenario!(|| {
        let seed: u64 = argument("SEED").to_str().unwrap().parse().unwrap();
        let path = PathBuf::from(argument("PATH"));
        for round in 0..5_u64 {
            // One step of splitmix64.
            let random = seed.wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let random = (random ^ random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let random = (random ^ random >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            let writes = random >> 50 & 1 == 0;
            let (early, long) = (random >> 33 & 1 == 0, random >> 40 & 0x7ff);
            let progress = Shared::<[AtomicU64; 2]>::new().unwrap();
            let editor = fork(|| edit(&path, &progress));
            while progress[0].load(Ordering::Acquire) < 3 {
                thread::yield_now();
            }
            let signal = |signal| {
                // SAFETY: our own child, not waited for yet.
                assert_eq!(unsafe { libc::kill(editor.id(), signal) }, 0);
            };
            let stop = || {
                signal(libc::SIGSTOP);
                while !kernel::is_stopped(editor.id()) {
                    thread::yield_now();
                }
            };
            if early {
                stop();
            }
            let before = progress[0].load(Ordering::Acquire);
            let opener = fork(|| {
                let mut file = OpenOptions::new();
                let mut file = file.read(true).write(writes).open(&path).unwrap();
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).unwrap();
                let pages = numbers(&bytes);
                assert!(pages[0] >= before, "{} of {before}", pages[0]);
                assert!(pages.is_sorted(), "{pages:?}");
            });
            // Time has to pass, for the break time of 1 s: less and more. No order depends on it.
            if !early {
                thread::sleep(Duration::from_millis(long / 3));
                stop();
            }
            thread::sleep(Duration::from_millis(long));
            signal(libc::SIGCONT);
            opener.succeed();
            progress[1].store(1, Ordering::Relaxed);
            let status = editor.wait();
            report(format_args!(
                "writes: {writes}, early: {early}, {long} ms: {status}"
            ));
            assert!(status.success() || status.signal() == Some(libc::SIGABRT));
        }
    });
    let (Some(_time), Some((_, disk))) = (BreakTime::of(1), systems().pop()) else {
        return;
    };
    let path = file_with(disk.path(), "file", &vec![0; 2 << 20]);
    let seed = seed() >> 8;
    let outcome = child
        .argument("PATH", &path)
        .argument("SEED", seed.to_string())
        .succeed();
    println!("{:?}", outcome.reports());
    let aborted = |line: &&&str| line.contains("signal: 6");
    let aborts = outcome.reports().iter().filter(aborted).count();
    let message = "stillmap: aborting";
    assert_eq!(outcome.stderr.matches(message).count(), aborts);
}
