//! Maps a file while another process truncates and rewrites it in a loop: the bytes stay, and the writer continues.
//! Then the same with memmap2, in a child, which is killed by SIGBUS.
//!
//! `cargo run --release --example survive -- --rounds 200 --mib 8`

use clap::Parser;
use indicatif::ProgressBar;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use stillmap::Backing;

/// Keep a mapped file's bytes while another process truncates and rewrites the file
#[derive(Parser)]
#[command(version)]
struct Args {
    /// How often the file is truncated and rewritten
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Size of the file, in MiB
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    mib: u32,
    /// The directory in which the file is created
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Runs as the process that writes (used by this program itself)
    #[arg(long, hide = true)]
    writer: Option<PathBuf>,
    /// Runs as the process that maps with memmap2 (used by this program itself)
    #[arg(long, hide = true)]
    unguarded: Option<PathBuf>,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match (&args.writer, &args.unguarded) {
        (Some(path), _) => write_on_request(path),
        (_, Some(path)) => map_with_memmap2(path),
        _ => survive(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}"));
            _ = writeln!(
                io::stderr(),
                "survive: {error}{}",
                cause.unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}

fn survive(args: &Args) -> Outcome<()> {
    let dir = tempfile::tempdir_in(&args.dir)?;
    let path = dir.path().join("file");
    let size = (args.mib as usize) << 20;

    let mut writer = Writer::start(&path)?;
    let mut waited = Vec::new();
    let mut backing = (Backing::Memory, Backing::Memory);
    let bar = ProgressBar::new(args.rounds.into());
    for round in 0..args.rounds {
        let byte = round as u8;
        fs::write(&path, vec![byte; size])?;
        let bytes = stillmap::Snapshot::open(&path)?;
        backing.0 = bytes.backing();
        writer.start_writing()?;
        // All bytes, while the writer is blocked and after it has written.
        check(&bytes, byte)?;
        waited.push(writer.wait()?);
        check(&bytes, byte)?;
        if !bytes.is_consistent() || fs::read(&path)? != NEW {
            return Err("the snapshot is not consistent, or the writer's bytes are lost".into());
        }
        backing.1 = bytes.backing();
        bar.inc(1);
    }
    bar.finish_and_clear();
    waited.sort();
    let median = waited[waited.len() / 2];
    let (before, after) = backing;
    writeln!(
        io::stdout(),
        "stillmap: {} times truncated and rewritten, {} MiB each time\n  \
         bytes changed under the reader: 0, writes lost: 0, signals: 0\n  \
         backing before: {before:?}, after: {after:?}\n  \
         the writer waited {median:.1?} (median) to open the file",
        args.rounds,
        args.mib
    )?;

    fs::write(&path, vec![1; size])?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--unguarded")
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().ok_or("no pipe to the child")?;
    let stdout = child.stdout.take().ok_or("no pipe from the child")?;
    // The child has mapped the file and read it once.
    BufReader::new(stdout).read_line(&mut String::new())?;
    writer.start_writing()?;
    writer.wait()?;
    writeln!(stdin)?;
    let status = child.wait()?;
    match status.signal() {
        Some(signal) => writeln!(
            io::stdout(),
            "memmap2: killed by signal {signal} (7 is SIGBUS) in round 1"
        )?,
        None => writeln!(io::stdout(), "memmap2: {status}")?,
    }
    Ok(())
}

fn check(bytes: &[u8], byte: u8) -> Outcome<()> {
    // From the end, where a truncated file loses its pages first.
    if bytes.iter().rev().all(|&found| found == byte) {
        Ok(())
    } else {
        Err("a byte changed under the reader".into())
    }
}

const NEW: &[u8] = b"rewritten";

/// The process that writes.
struct Writer {
    process: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Writer {
    fn start(path: &Path) -> Outcome<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("--writer")
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().ok_or("no pipe to the writer")?;
        let stdout = process.stdout.take().ok_or("no pipe from the writer")?;
        Ok(Writer {
            process,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    fn start_writing(&mut self) -> Outcome<()> {
        Ok(writeln!(self.stdin)?)
    }

    /// How long its open(2) was blocked.
    fn wait(&mut self) -> Outcome<Duration> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(Duration::from_nanos(line.trim().parse()?))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn write_on_request(path: &Path) -> Outcome<()> {
    for line in io::stdin().lines() {
        line?;
        let start = Instant::now();
        let mut file = File::create(path)?; // O_TRUNC
        let waited = start.elapsed();
        file.write_all(NEW)?;
        writeln!(io::stdout(), "{}", waited.as_nanos())?;
    }
    Ok(())
}

fn map_with_memmap2(path: &Path) -> Outcome<()> {
    let file = File::open(path)?;
    // SAFETY: this is unsound, as the example shows: the file is truncated while it is mapped.
    #[allow(unsafe_code)]
    let bytes = unsafe { memmap2::Mmap::map(&file) }?;
    check(&bytes, 1)?;
    writeln!(io::stdout(), "mapped")?;
    io::stdin().read_line(&mut String::new())?;
    check(&bytes, 1)
}
