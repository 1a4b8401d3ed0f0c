//! Edits a file in place while everybody else is kept out, and shows how few bytes went to the disk.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use stillmap::Exclusive;

/// Change a file in place.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    how: How,
}

#[derive(Subcommand)]
enum How {
    /// Make ASCII letters upper case, in the whole file
    Upper {
        /// The file
        file: PathBuf,
    },
    /// Put a text over the bytes at an offset
    Patch {
        /// The file
        file: PathBuf,
        /// The first byte to change
        offset: usize,
        /// What to put there; the file grows if it ends before
        text: String,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse().how) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}"));
            _ = writeln!(io::stderr(), "edit: {error}{}", cause.unwrap_or_default());
            ExitCode::FAILURE
        }
    }
}

fn run(how: &How) -> Result<(), Box<dyn Error>> {
    let (How::Upper { file: path } | How::Patch { file: path, .. }) = how;
    let mut file = Exclusive::open(path)?;
    // What was stored before is not to be counted.
    file.flush()?;
    let (before, start) = (written(), Instant::now());
    let changed = match how {
        How::Upper { .. } => upper(&mut file),
        How::Patch { offset, text, .. } => patch(&mut file, *offset, text.as_bytes())?,
    };
    file.flush()?;
    let (bytes, took) = (written() - before, start.elapsed());
    let (len, wanted) = (file.len(), file.has_waiter());
    file.close()?;
    writeln!(
        io::stdout(),
        "{}: {changed} of {len} bytes changed, {bytes} bytes written in {took:.1?}{}",
        path.display(),
        if wanted {
            ", and somebody waits for it"
        } else {
            ""
        }
    )?;
    Ok(())
}

/// Stores only where something changes: a page that is only read is not written.
fn upper(file: &mut [u8]) -> usize {
    let mut changed = 0;
    for byte in file.iter_mut().filter(|byte| byte.is_ascii_lowercase()) {
        byte.make_ascii_uppercase();
        changed += 1;
    }
    changed
}

fn patch(file: &mut Exclusive, offset: usize, text: &[u8]) -> stillmap::Result<usize> {
    let end = offset.saturating_add(text.len());
    if end > file.len() {
        file.resize(end)?;
    }
    file[offset..end].copy_from_slice(text);
    Ok(text.len())
}

/// Bytes that this process caused to be written, by /proc/self/io; 0 where the kernel does not count them.
fn written() -> u64 {
    let counts = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = counts
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}
