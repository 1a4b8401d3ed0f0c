//! Unrelated processes count in one file, and lose nothing: run it twice at the same time.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use stillmap::Shared;

/// Add to a counter in FILE, which is made if it is not there, and print what it was and is.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where the counter is
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What to add, one by one
    #[arg(long, value_name = "N", default_value_t = 1)]
    add: u64,
}

stillmap::shareable! {
    /// What is in the file.
    struct Counter {
        count: AtomicU64,
        /// How many processes have come.
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
    // What is longer or shorter is somebody's, and no counter.
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
    // On the disk, and not lost to somebody who truncated the file meanwhile.
    counter.flush()?;
    writeln!(io::stdout(), "visit {visit}: from {before} to {after}")?;
    Ok(())
}
