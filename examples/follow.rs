//! Prints what others append to a file, as `tail -F` does, by mapping: `cargo run --example follow -- FILE`.
#![forbid(unsafe_code)]

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use clap::Parser;
use stillmap::{Change, Error, Live};

/// How long to wait when nothing was added: twice as long each time, up to the longest pause. A writer of 500 MB/s adds half
/// a megabyte in the shortest one.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

/// Print what is appended to FILE. Start again when it is truncated or replaced.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// A file that other processes write to
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Also print the present content
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match follow(&args.file, args.all) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("follow: {error}");
            ExitCode::FAILURE
        }
        Ok(never) => match never {},
    }
}

fn follow(path: &Path, all: bool) -> io::Result<std::convert::Infallible> {
    let mut live = Live::open(path)?;
    let mut printed = if all { 0 } else { live.len() };
    let mut pause = PAUSES.0;
    loop {
        printed += print(&live, printed)?;
        match live.refresh()? {
            Change::Grown(_) => pause = PAUSES.0,
            Change::Cut(_) | Change::PagesLost => {
                eprintln!("follow: {} was truncated", path.display());
                printed = 0;
            }
            _ if is_replaced(&live, path)? && live.refresh()? == Change::Same => {
                eprintln!("follow: {} was replaced", path.display());
                (live, printed) = (Live::open(path)?, 0);
            }
            _ => {
                sleep(pause);
                pause = PAUSES.1.min(2 * pause);
            }
        }
    }
}

/// Prints from an offset to the end, and returns the number of bytes.
fn print(live: &Live, from: usize) -> io::Result<usize> {
    let mut out = io::stdout().lock();
    let (mut buffer, mut at) = (vec![0; 1 << 20], from);
    loop {
        let n = match live.read_at(at, &mut buffer) {
            // `refresh` finds out how much is left.
            Err(Error::PagesLost { .. }) => 0,
            read => read?,
        };
        if n == 0 {
            out.flush()?;
            return Ok(at - from);
        }
        out.write_all(&buffer[..n])?;
        at += n;
    }
}

/// Whether the path names another file now. While it names none, the old file is followed.
fn is_replaced(live: &Live, path: &Path) -> io::Result<bool> {
    let id = |of: &Metadata| (of.dev(), of.ino());
    let ours = File::from(live.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(fs::metadata(path).is_ok_and(|now| id(&now) != id(&ours)))
}
