//! Shows which pages of files are in RAM: `cargo run --example residency -- --width 60 FILE...`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use stillmap::{Advice, Snapshot};

/// Show which pages of each FILE are in RAM, without reading it.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Regular files
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Start reading the files into RAM first
    #[arg(long, conflicts_with = "evict")]
    prefetch: bool,
    /// Drop the files from RAM first
    #[arg(long)]
    evict: bool,
    /// Width of the map, in characters
    #[arg(long, default_value_t = 80)]
    width: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut code = ExitCode::SUCCESS;
    for path in &args.files {
        if let Err(error) = show(path, &args) {
            eprintln!("residency: {}: {error}", printable(path));
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// A path without the characters that would move the cursor.
fn printable(path: &Path) -> String {
    path.display().to_string().escape_debug().collect()
}

fn show(path: &Path, args: &Args) -> io::Result<()> {
    let file = File::open(path)?;
    if args.evict {
        evict(&file)?;
    }
    // SAFETY: no byte is read, so it does not matter that other processes may change them.
    let snapshot = unsafe { Snapshot::map_unguarded(&file) }?;
    if args.prefetch {
        snapshot.pages().advise(.., Advice::WillNeed)?;
    }
    let residency = snapshot.pages().residency(..)?;
    let (resident, pages) = (residency.resident_pages(), residency.pages());
    let mut out = io::stdout();
    writeln!(
        out,
        "{}: {resident} of {pages} pages in RAM",
        printable(path)
    )?;
    writeln!(out, "{residency:width$}", width = args.width)
}

/// Only clean pages can be dropped, so they are written back first.
fn evict(file: &File) -> io::Result<()> {
    file.sync_data()?;
    // SAFETY: posix_fadvise(2) takes numbers.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
