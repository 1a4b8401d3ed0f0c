//! The process that reads: it holds snapshots of files that are rewritten meanwhile, and looks at their bytes.

use crate::storm::Dice;
use crate::support::child::fork_into;
use crate::support::kernel::{self, limit, may_open};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use stillmap::{Backing, Snapshot};

/// The hardships of the readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hardship {
    Nothing,
    Forks,
    Daemons,
    Stops,
    FewThreads,
    LittleMemory,
    FewAddresses,
    FewDescriptors,
    FewProcesses,
    OneFile,
    ManyFiles,
}

impl Hardship {
    pub const ALL: [Hardship; 11] = [
        Hardship::Nothing,
        Hardship::Forks,
        Hardship::Daemons,
        Hardship::Stops,
        Hardship::FewThreads,
        Hardship::LittleMemory,
        Hardship::FewAddresses,
        Hardship::FewDescriptors,
        Hardship::FewProcesses,
        Hardship::OneFile,
        Hardship::ManyFiles,
    ];

    /// How many files there are, and their length in bytes.
    pub fn files(self) -> (usize, usize) {
        match self {
            Hardship::OneFile => (1, 16 << 20),
            Hardship::ManyFiles => (10_000, 64 << 10),
            Hardship::LittleMemory => (16, 24 << 20),
            _ => (40, 2 << 20),
        }
    }

    /// How many snapshots each of the threads holds.
    fn held(self) -> usize {
        match self {
            Hardship::OneFile => 500,
            Hardship::ManyFiles => 5000,
            Hardship::LittleMemory => 4,
            _ => 30,
        }
    }

    /// In the process that reads, before its first lease.
    fn impose(self) {
        match self {
            Hardship::FewDescriptors => drop(limit(libc::RLIMIT_NOFILE, 48)),
            Hardship::ManyFiles => drop(may_open(11_000)),
            Hardship::FewProcesses => {
                // SAFETY: takes numbers. Root has no limit on processes.
                unsafe { libc::setresuid(65534, 65534, 65534) };
            }
            _ => {}
        }
    }

    /// Once a thread holds all its leases.
    fn impose_further(self) {
        match self {
            // Room for the copies of a few files.
            Hardship::FewAddresses => drop(limit(
                libc::RLIMIT_AS,
                kernel::status("VmSize") as u64 + (16 << 20),
            )),
            Hardship::FewProcesses => drop(limit(libc::RLIMIT_NPROC, 0)),
            _ => {}
        }
    }
}

pub const SERVE: &str = "STILLMAP_SOAK_READERS";
const THREADS: usize = 2;

/// The word that fills a version of a file.
pub fn word(file: usize, version: u64) -> u64 {
    (file as u64) << 32 | version
}

/// Snapshots that were leased, copied, or denied to a child.
#[derive(Default)]
struct Counts {
    leased: AtomicU64,
    other: AtomicU64,
    children: AtomicU64,
    denied: AtomicU64,
}

/// The process itself: to be called by a test, which it ends at once in any other process. It runs until its standard
/// input ends. Failures go to a file, since a child may find them.
pub fn serve() {
    let Some(arguments) = std::env::var_os(SERVE) else {
        return;
    };
    let arguments = arguments.into_string().expect("text");
    let words: Vec<_> = arguments.splitn(3, ' ').collect();
    let hardship = Hardship::ALL[words[0].parse::<usize>().expect("a number")];
    let seed: u64 = words[1].parse().expect("a number");
    let dir = PathBuf::from(words[2]);
    hardship.impose();
    let (stop, counts) = (AtomicBool::new(false), Counts::default());
    let all = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let mut threads = 0;
        for number in 0..THREADS {
            let (stop, counts, all, dir) = (&stop, &counts, &all, &dir);
            let read = move || read(hardship, dir, seed + number as u64, stop, counts, all);
            let started = thread::Builder::new().spawn_scoped(scope, read);
            threads += usize::from(started.is_ok());
        }
        if threads == 0 {
            stop.store(true, Ordering::Relaxed);
            let once = AtomicBool::new(true);
            read(hardship, &dir, seed, &once, &counts, &all);
        }
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
    let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
    println!(
        "\ncounts: {} leased, {} not leased, {} children, {} denied to a child",
        number(&counts.leased),
        number(&counts.other),
        number(&counts.children),
        number(&counts.denied)
    );
    std::process::exit(0);
}

type Held = Vec<(u64, Snapshot)>;

fn read(
    hardship: Hardship,
    dir: &Path,
    seed: u64,
    stop: &AtomicBool,
    counts: &Counts,
    forking: &Mutex<Vec<u64>>,
) {
    let mut dice = Dice(seed | 1);
    let (files, len) = hardship.files();
    let mut held = Held::new();
    let mut is_imposed = false;
    loop {
        while held.len() < hardship.held() {
            let path = dir.join(dice.below(files).to_string());
            let options = Snapshot::options().copy_limit(64 << 20);
            let options = match dice.below(3) {
                0 => options.offset(8 * dice.below(len / 16) as u64).len(len / 2),
                _ => options,
            };
            let Ok(snapshot) = options.open(&path) else {
                // A limit that the kernel has is an error.
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                held.pop();
                continue;
            };
            let was_leased = snapshot.backing() == Backing::Leased;
            let counter = match snapshot.backing() {
                Backing::Leased => &counts.leased,
                _ => &counts.other,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            let first = first_word(&snapshot);
            // A copy that met a writer says so.
            if let Some(first) = first.filter(|_| snapshot.is_consistent()) {
                if is_all(first, &snapshot) {
                    held.push((first, snapshot));
                } else if was_leased {
                    // A clone may be the file of one moment of a write. No writer has a file that is leased.
                    fail(dir, "two versions under a lease");
                }
            }
        }
        if !is_imposed {
            hardship.impose_further();
            is_imposed = true;
        }
        held.iter()
            .for_each(|(word, snapshot)| look(dir, *word, snapshot));
        if matches!(hardship, Hardship::Forks | Hardship::Daemons) {
            let _one = forking.lock().expect("no thread panics");
            fork_and_look(hardship, dir, &held, counts);
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
        for _ in 0..1 + held.len() / 4 {
            held.swap_remove(dice.below(held.len()));
        }
    }
}

fn first_word(snapshot: &Snapshot) -> Option<u64> {
    snapshot.first_chunk().map(|word| u64::from_ne_bytes(*word))
}

/// True if every word is that one: memcmp(3) is fast in a debug build, too.
fn is_all(word: u64, snapshot: &Snapshot) -> bool {
    let len = snapshot.len();
    first_word(snapshot) == Some(word) && snapshot[8..] == snapshot[..len - 8]
}

fn look(dir: &Path, word: u64, snapshot: &Snapshot) {
    if !is_all(word, snapshot) {
        fail(dir, "a byte changed");
    }
    if !snapshot.is_consistent() {
        fail(dir, "not intact");
    }
}

/// A child looks at what it has of its parent; a daemon goes on alone.
fn fork_and_look(hardship: Hardship, dir: &Path, held: &Held, counts: &Counts) {
    const DENIED: i32 = 3;
    let look_at_all = || {
        let mut is_denied = false;
        for (word, snapshot) in held {
            if !snapshot.is_consistent() {
                // It had been broken, and was changed a moment before the fork.
                is_denied = true;
            } else if !is_all(*word, snapshot) {
                fail(dir, "a byte changed in a child");
            }
        }
        if is_denied {
            // SAFETY: ends the child.
            unsafe { libc::_exit(DENIED) };
        }
    };
    let child = || {
        if hardship == Hardship::Daemons {
            // SAFETY: takes numbers. This process has the monitor's threads beside this one.
            unsafe { libc::daemon(1, 1) };
        }
        look_at_all();
    };
    // SAFETY: the child allocates nothing and takes no lock; the C library takes those of its allocator.
    let status = unsafe { fork_into(child) }.wait();
    counts.children.fetch_add(1, Ordering::Relaxed);
    match status.code() {
        Some(0) => {}
        Some(DENIED) => drop(counts.denied.fetch_add(1, Ordering::Relaxed)),
        _ => fail(dir, &format!("a child ended with {status}")),
    }
}

/// Where [`fail`] writes.
pub fn failures(dir: &Path) -> PathBuf {
    dir.join("failures")
}

fn fail(dir: &Path, what: &str) -> ! {
    let file = OpenOptions::new().append(true).open(failures(dir));
    let _ = file.and_then(|mut file| file.write_all(format!("{what}\n").as_bytes()));
    std::process::abort()
}
