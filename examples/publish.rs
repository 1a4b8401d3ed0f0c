//! Writes an index of the words of a text file, so that readers find the old index or the new one, complete.
//! Kill it at any time: nothing is half-written, and nothing is left behind.

use clap::Parser;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use stillmap::Draft;

/// Index the words of a text: one line for each, with the numbers of its lines.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The text; `-` is standard input
    text: PathBuf,
    /// The index to write or to replace; `/dev/stdout` to print it
    index: PathBuf,
    /// Fail if there is an index already
    #[arg(long)]
    new: bool,
}

fn main() -> ExitCode {
    if let Err(error) = run(&Args::parse()) {
        eprintln!("publish: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(args: &Args) -> io::Result<()> {
    let text = stillmap::Snapshot::open_or_stdin(&args.text)?;
    let options = Draft::options().create_new(args.new);
    // A missing directory is an error here, before the work.
    let mut draft = options.create(&args.index, 0)?;
    let index = index(&text);
    for (word, lines) in &index {
        draft.write_all(word)?;
        for number in lines {
            write!(draft, " {number}")?;
        }
        draft.write_all(b"\n")?;
    }
    draft.commit()?;
    eprintln!("{}: {} words", args.index.display(), index.len());
    Ok(())
}

/// The lines in which each word stands.
fn index(text: &[u8]) -> BTreeMap<&[u8], Vec<usize>> {
    let mut index: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let words = line.split(|byte| !byte.is_ascii_alphanumeric());
        for word in words.filter(|word| !word.is_empty()) {
            let lines = index.entry(word).or_default();
            lines.push(number + 1);
            lines.dedup();
        }
    }
    index
}
