//! Edits a file in place while every other open is blocked, and prints how few bytes went to the disk.

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::{fs, io};
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
    Upper { file: PathBuf },
    /// Write a text over the bytes at an offset; the file grows if it ends before
    Patch {
        file: PathBuf,
        offset: usize,
        text: String,
    },
}

fn main() -> ExitCode {
    if let Err(error) = run(&Args::parse().how) {
        eprintln!("edit: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(how: &How) -> io::Result<()> {
    let (How::Upper { file: path } | How::Patch { file: path, .. }) = how;
    let mut file = Exclusive::open(path)?;
    // Stores of other programs before this do not count.
    file.flush()?;
    let before = written();
    let changed = match how {
        How::Upper { .. } => upper(&mut file),
        How::Patch { offset, text, .. } => {
            let end = offset + text.len();
            if end > file.len() {
                file.resize(end)?;
            }
            file[*offset..end].copy_from_slice(text.as_bytes());
            text.len()
        }
    };
    file.flush()?;
    let (bytes, len) = (written() - before, file.len());
    file.close()?;
    println!("{changed} of {len} bytes changed, {bytes} bytes written");
    Ok(())
}

/// Stores only where something changes: a page that is only read is not written.
fn upper(file: &mut [u8]) -> usize {
    let lower = file.iter_mut().filter(|byte| byte.is_ascii_lowercase());
    lower.map(|byte| byte.make_ascii_uppercase()).count()
}

/// Bytes that this process caused to be written, by /proc/self/io; 0 where the kernel does not count them.
fn written() -> u64 {
    let counts = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let mut lines = counts.lines();
    let count = lines.find_map(|line| line.strip_prefix("write_bytes: "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}
