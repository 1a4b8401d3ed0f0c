//! Changes the bytes of a file in memory that costs only what is changed, and leaves the file alone.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use stillmap::{Backing, Private};

/// Use a file as a scratchpad: count its bytes by value after each is turned, in place, into the distance to the one
/// before. The file never changes.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The file
    file: PathBuf,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // As a reader like `head` leaves: it has what it wanted.
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
    let place = match bytes.backing() {
        Backing::Cloned => "a clone of the file, copied page by page when it is stored to",
        Backing::Sealed => "the sealed file, copied page by page when it is stored to",
        _ => "a copy in memory",
    };
    let before = entropy(&bytes);
    // The change is made in place, over what looks like the file.
    let mut last = 0;
    for byte in bytes.iter_mut() {
        (*byte, last) = (byte.wrapping_sub(last), *byte);
    }
    let after = entropy(&bytes);
    writeln!(
        io::stdout(),
        "{}: {} bytes, {before:.2} bits each, as distances {after:.2} ({place})",
        args.file.display(),
        bytes.len()
    )?;
    Ok(())
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Bits for each byte that a perfect code would need.
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
