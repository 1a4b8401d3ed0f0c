//! Readers that check every byte without pause, and a competing process that changes the files in every way.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use stillmap::{Backing, Snapshot};

/// What a writer does to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    Rewrite,
    Shorten,
    Lengthen,
    Overwrite,
    Append,
    RenameOver,
    Unlink,
    ChangeMode,
    PunchHole,
    MapShared,
    WriteDirect,
    Reopen,
}

pub const BLOWS: [Blow; 12] = [
    Blow::Rewrite,
    Blow::Shorten,
    Blow::Lengthen,
    Blow::Overwrite,
    Blow::Append,
    Blow::RenameOver,
    Blow::Unlink,
    Blow::ChangeMode,
    Blow::PunchHole,
    Blow::MapShared,
    Blow::WriteDirect,
    Blow::Reopen,
];

const PAGE: usize = 4096;

impl Blow {
    /// True if the kernel has to break a lease for it.
    pub fn breaks(self) -> bool {
        !matches!(self, Blow::RenameOver | Blow::Unlink | Blow::ChangeMode)
    }

    /// Does it to the file, in the competing process.
    fn strike(self, path: &Path) -> std::io::Result<()> {
        let write = || OpenOptions::new().write(true).open(path);
        match self {
            Blow::Rewrite => fs::write(path, b"rewritten"),
            Blow::Shorten => crate::support::truncate(path, 5),
            Blow::Lengthen => {
                let size = fs::metadata(path)?.len();
                crate::support::truncate(path, size + 9000)
            }
            Blow::Overwrite => write()?.write_all_at(&[0xEE; 3 * PAGE], 100),
            Blow::Append => OpenOptions::new()
                .append(true)
                .open(path)?
                .write_all(b"tail"),
            Blow::RenameOver => {
                let new = path.with_extension("new");
                fs::write(&new, b"renamed over")?;
                fs::rename(&new, path)
            }
            Blow::Unlink => fs::remove_file(path),
            Blow::ChangeMode => fs::set_permissions(path, fs::Permissions::from_mode(0o600)),
            Blow::PunchHole => {
                let file = write()?;
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                // SAFETY: takes numbers only.
                let done = unsafe { libc::fallocate64(file.as_raw_fd(), mode, 0, 2 * PAGE as i64) };
                check(done)
            }
            Blow::MapShared => {
                let file = OpenOptions::new().read(true).write(true).open(path)?;
                // SAFETY: no other process has the file open for writing, and nothing refers into the mapping afterwards.
                let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }?;
                map[PAGE..PAGE + 10].fill(0xAA);
                map.flush()
            }
            Blow::WriteDirect => {
                let mut options = OpenOptions::new();
                options.write(true).custom_flags(libc::O_DIRECT);
                let file = options.open(path).or_else(|_| write())?;
                #[repr(align(4096))]
                struct Aligned([u8; PAGE]);
                file.write_all_at(&Aligned([0xDD; PAGE]).0, PAGE as u64)
            }
            Blow::Reopen => {
                let reader = File::open(path)?;
                let again = format!("/proc/self/fd/{}", reader.as_raw_fd());
                let writer = OpenOptions::new().write(true).open(again)?;
                writer.write_all_at(b"reopened", 0)
            }
        }
    }

    /// What the file holds afterwards; `None` if it is gone.
    fn expected(self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        match self {
            Blow::Rewrite => return Some(b"rewritten".to_vec()),
            Blow::Shorten => bytes.truncate(5),
            Blow::Lengthen => bytes.resize(bytes.len() + 9000, 0),
            Blow::Overwrite => bytes[100..100 + 3 * PAGE].fill(0xEE),
            Blow::Append => bytes.extend_from_slice(b"tail"),
            Blow::RenameOver => return Some(b"renamed over".to_vec()),
            Blow::Unlink => return None,
            Blow::ChangeMode => {}
            Blow::PunchHole => bytes[..2 * PAGE].fill(0),
            Blow::MapShared => bytes[PAGE..PAGE + 10].fill(0xAA),
            Blow::WriteDirect => bytes[PAGE..2 * PAGE].fill(0xDD),
            Blow::Reopen => bytes[..8].copy_from_slice(b"reopened"),
        }
        Some(bytes)
    }
}

fn check(result: i32) -> std::io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

const SERVE: &str = "STILLMAP_TEST_COMPETITOR";

/// A process that changes the files on command.
pub struct Competitor {
    process: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Competitor {
    /// `server` names the test that calls [`serve`].
    pub fn start(server: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", server, "--nocapture", "--test-threads=1"])
            .env(SERVE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start the competitor");
        let commands = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("its stdout"));
        Competitor {
            process,
            commands,
            answers,
        }
    }

    /// Sends the command, and does not wait.
    pub fn tell(&mut self, blow: Blow, path: &Path) {
        let number = BLOWS.iter().position(|&b| b == blow).expect("a known blow");
        let commands = self.commands.as_mut().expect("its stdin");
        writeln!(commands, "{number} {}", path.display()).expect("tell the competitor");
    }

    /// Waits until it is through.
    pub fn wait(&mut self) {
        let mut line = String::new();
        loop {
            line.clear();
            let n = self.answers.read_line(&mut line).expect("its answer");
            assert!(n > 0, "the competitor died");
            if let Some((_, answer)) = line.trim_end().split_once("struck: ") {
                assert_eq!(answer, "ok", "the competitor failed");
                return;
            }
        }
    }
}

impl Drop for Competitor {
    fn drop(&mut self) {
        // It ends when its input ends; this user may not be allowed to kill it.
        drop(self.commands.take());
        let _ = self.process.wait();
    }
}

/// The competing process: to be called by a test, which it ends at once in any other process.
pub fn serve() {
    if std::env::var_os(SERVE).is_none() {
        return;
    }
    for line in std::io::stdin().lines() {
        let line = line.expect("a command");
        let (number, path) = line.split_once(' ').expect("a number and a path");
        let blow = BLOWS[number.parse::<usize>().expect("a number")];
        let done = blow.strike(Path::new(path));
        let answer = done.map_or_else(|e| e.to_string(), |()| "ok".into());
        println!("struck: {answer}");
    }
    std::process::exit(0);
}

/// What the readers check: a snapshot, and the bytes that it was made from.
type Watched = Arc<Mutex<Vec<(Arc<Snapshot>, Arc<Vec<u8>>)>>>;

/// The result of a storm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Survived {
    pub blows: u64,
    /// Leases that were broken while their snapshots were looked at.
    pub breaks: u64,
}

/// A source of choices, printed by its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        // xorshift64*, Vigna 2014.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

/// Opens snapshots of files in `folder` as long as `continues` returns true, has the competitor strike, and checks every byte: those
/// of the snapshots, by threads that never pause, and those of the files.
pub fn storm(
    folder: &Path,
    server: &str,
    seed: u64,
    mut continues: impl FnMut(&Survived) -> bool,
) -> Survived {
    println!("storm in {}, seed {seed}", folder.display());
    let folder = crate::support::temp_dir_in(folder);
    let mut dice = Dice(seed | 1);
    let mut competitor = Competitor::start(server);
    let watched = Watched::default();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (watched, stop) = (Arc::clone(&watched), Arc::clone(&stop));
            thread::spawn(move || watch(&watched, &stop))
        })
        .collect();
    let mut survived = Survived::default();
    while continues(&survived) {
        let blow = BLOWS[dice.below(BLOWS.len())];
        let broken = round(folder.path(), blow, &mut dice, &mut competitor, &watched);
        survived.blows += 1;
        survived.breaks += broken;
        if readers.iter().any(thread::JoinHandle::is_finished) {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().expect("a reader saw other bytes");
    }
    survived
}

/// A reader: looks at everything that is watched, again and again.
fn watch(watched: &Watched, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let now = watched.lock().expect("the list").clone();
        for (snapshot, bytes) in now {
            assert!(snapshot[..] == bytes[..], "a byte changed under a reader");
        }
    }
}

/// One file, several snapshots of it, one blow: how many leases it broke, as far as they were there to see.
fn round(
    folder: &Path,
    blow: Blow,
    dice: &mut Dice,
    competitor: &mut Competitor,
    watched: &Watched,
) -> u64 {
    let path: PathBuf = folder.join("file");
    let len = (1 << 20) + dice.below(512 << 10);
    let first = dice.below(251);
    let period: Vec<u8> = (0..251).map(|i| ((i + first) % 251) as u8).collect();
    let mut bytes = period.repeat(len / 251 + 1);
    bytes.truncate(len);
    fs::write(&path, &bytes).expect("write the file");

    let whole = Arc::new(bytes);
    let mut snapshots = Vec::new();
    for _ in 0..1 + dice.below(4) {
        let offset = dice.below(len / 2);
        let window = dice.below(len / 2) + 1;
        let snapshot = super::leased(|| {
            let options = Snapshot::options().copy_limit(0);
            options.offset(offset as u64).len(window).open(&path)
        });
        let part = Arc::new(whole[offset..offset + window].to_vec());
        snapshots.push((Arc::new(snapshot), part));
    }
    watched.lock().expect("the list").clone_from(&snapshots);

    competitor.tell(blow, &path);
    // Some go at the very moment of the blow.
    let dropped = dice.below(snapshots.len() + 1);
    watched.lock().expect("the list").truncate(dropped);
    snapshots.truncate(dropped);
    competitor.wait();

    let now = fs::read(&path).ok();
    assert!(
        now == blow.expected(whole.to_vec()),
        "the writer's bytes are lost after {blow:?}"
    );
    for (snapshot, bytes) in &snapshots {
        assert!(
            snapshot[..] == bytes[..],
            "the snapshot changed by {blow:?}"
        );
        assert!(snapshot.is_consistent(), "{blow:?}");
        let leased = snapshot.backing() == Backing::Leased;
        assert_eq!(leased, !blow.breaks(), "{blow:?}");
    }
    watched.lock().expect("the list").clear();
    let _ = fs::remove_file(&path);
    u64::from(blow.breaks()) * snapshots.len() as u64
}
