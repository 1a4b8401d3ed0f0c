//! Writes a sorted index of the words of a text file, so that whoever looks finds the old index or the new one, whole.
//! Kill it at any time: nothing is half-written, and nothing is left lying about.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use stillmap::Draft;

/// Index the words of a text: one line for each, with the numbers of the lines it stands in.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The text; `-` is standard input
    text: PathBuf,
    /// The index to write or to replace; `/dev/stdout` to look at it
    index: PathBuf,
    /// Fail if there is an index already
    #[arg(long)]
    new: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            _ = writeln!(
                io::stderr(),
                "publish: {error}{}",
                cause.unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> stillmap::Result<()> {
    let text = stillmap::open_or_stdin(&args.text)?;
    let bar = progress(text.len());
    let index = index(&text, &bar);
    let len = index
        .iter()
        .map(|(word, lines)| line(word, lines).len())
        .sum();

    // A directory that is missing, a disk that is full: all that is told here, before anything is written.
    let mut draft = Draft::options()
        .create_new(args.new)
        .create(&args.index, len)?;
    let mut rest = &mut draft[..];
    for (word, lines) in &index {
        let line = line(word, lines);
        let (here, after) = rest.split_at_mut(line.len());
        here.copy_from_slice(&line);
        rest = after;
    }
    bar.set_message("syncing");
    draft.commit()?;
    bar.finish_and_clear();
    _ = writeln!(
        io::stderr(),
        "{}: {} words, {len} bytes",
        args.index.display(),
        index.len()
    );
    Ok(())
}

/// The lines in which each word stands.
fn index<'a>(text: &'a [u8], bar: &ProgressBar) -> BTreeMap<&'a [u8], Vec<usize>> {
    let mut index: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for (number, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let words = line.split(|byte| !byte.is_ascii_alphanumeric());
        for word in words.filter(|word| !word.is_empty()) {
            let lines = index.entry(word).or_default();
            if lines.last() != Some(&(number + 1)) {
                lines.push(number + 1);
            }
        }
        bar.inc(line.len() as u64 + 1);
    }
    index
}

fn line(word: &[u8], lines: &[usize]) -> Vec<u8> {
    let mut line = word.to_vec();
    for number in lines {
        line.extend_from_slice(format!(" {number}").as_bytes());
    }
    line.push(b'\n');
    line
}

fn progress(len: usize) -> ProgressBar {
    let target = match io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {eta} {msg}");
    let bar = ProgressBar::with_draw_target(Some(len as u64), target);
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
