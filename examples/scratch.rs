//! Changes the bytes of a file in memory; the file stays as it is, and memory is used only for pages that change.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use stillmap::{Backing, Private};

/// Replace each byte of a file by its distance to the one before, in memory, and print the entropy of both. The file does
/// not change.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The file
    file: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader like `head` has closed the pipe.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}"));
            _ = writeln!(
                io::stderr(),
                "scratch: {error}{}",
                cause.unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut bytes = Private::open(&args.file)?;
    let held_by = match bytes.backing() {
        Backing::Memory => "a copy in memory".to_owned(),
        backing => format!("{backing:?}, each page copied when it is first stored to"),
    };
    let before = entropy(&bytes);
    let mut last = 0;
    for byte in bytes.iter_mut() {
        (*byte, last) = (byte.wrapping_sub(last), *byte);
    }
    let after = entropy(&bytes);
    writeln!(
        io::stdout(),
        "{}: {} bytes, {before:.2} bits each, as distances {after:.2} ({held_by})",
        args.file.display(),
        bytes.len()
    )?;
    Ok(())
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The entropy, in bits per byte.
fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0_u64; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let total = bytes.len() as f64;
    let shares = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| count as f64 / total);
    -shares.map(|share| share * share.log2()).sum::<f64>()
}
