//! Unrelated processes count in one file, and lose no update: run it twice at the same time.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use stillmap::Shared;

/// Add to a counter in FILE, which is created if necessary, and print the old and the new number.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The file of the counter
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// How much to add, in steps of one
    #[arg(long, value_name = "N", default_value_t = 1)]
    add: u64,
}

stillmap::shareable! {
    /// The content of the file.
    struct Counter {
        count: AtomicU64,
        /// Number of processes that have opened it.
        visits: AtomicU64,
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}"));
            _ = writeln!(
                io::stderr(),
                "counter: {error}{}",
                cause.unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    // A file of another length is not a counter.
    match fs::metadata(&args.file) {
        Ok(there) if there.is_file() && there.len() != size_of::<Counter>() as u64 => {
            return Err(format!("no counter: {}", args.file.display()).into());
        }
        _ => {}
    }
    let counter = Shared::<Counter>::create(&args.file)?;
    let visit = counter.visits.fetch_add(1, Ordering::Relaxed) + 1;
    let before = counter.count.load(Ordering::Relaxed);
    for _ in 0..args.add {
        counter.count.fetch_add(1, Ordering::Relaxed);
    }
    let after = counter.count.load(Ordering::Relaxed);
    // On the disk, and not lost by a truncation of the file meanwhile.
    counter.flush()?;
    writeln!(io::stdout(), "visit {visit}: from {before} to {after}")?;
    Ok(())
}
