//! Counts lines, words and bytes of anything that can be read, as `wc` does: files, pipes, devices, standard input.

use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::ops::AddAssign;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use stillmap::{Backing, Reason, Snapshot};

/// Count the lines, words and bytes of each FILE, with a total if there is more than one.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What to read; `-`, or nothing at all, is standard input
    #[arg(value_name = "FILE")]
    files: Vec<OsString>,
    /// Show the backing of each file's bytes, and why it is not a better one
    #[arg(long)]
    how: bool,
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    if args.files.is_empty() {
        args.files.push("-".into());
    }
    let mut total = Counts::default();
    let mut rows = Vec::new();
    let mut all_well = true;
    for file in &args.files {
        match count(file) {
            Ok((counts, backing, reason)) => {
                total += counts;
                let mut name = file.as_encoded_bytes().to_vec();
                if let Some(reason) = reason.filter(|_| args.how) {
                    name.extend_from_slice(format!("  ({reason})").as_bytes());
                }
                rows.push((counts, format!("{backing:?}").to_lowercase(), name));
            }
            Err(error) => {
                all_well = false;
                // Its message names the file.
                complain(&error);
            }
        }
    }
    if args.files.len() > 1 {
        rows.push((total, String::new(), b"total".to_vec()));
    }
    if rows.is_empty() {
        return ExitCode::FAILURE;
    }
    match io::stdout().write_all(&table(&rows, args.how)) {
        Ok(()) => {}
        // A reader like `head` has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            all_well = false;
            complain(&error);
        }
    }
    if all_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The only use of the library: bytes of any input, as one slice.
fn count(file: &OsString) -> stillmap::Result<(Counts, Backing, Option<Reason>)> {
    let is_stdin = file == "-";
    let bar = Bar::new(is_stdin);
    let options = Snapshot::options().progress(|done, total| bar.show("read", done, total));
    let bytes = if is_stdin {
        options.stdin()?
    } else {
        options.open(file)?
    };
    let mut counts = Counts::default();
    let mut before = b' ';
    // In steps, for the progress bar: the pages of a mapped file are read from disk only now.
    for step in bytes.chunks(16 << 20) {
        counts += Counts::of(before, step);
        before = step[step.len() - 1];
        bar.show("counted", counts.bytes, Some(bytes.len() as u64));
    }
    Ok((counts, bytes.backing(), bytes.reason()))
}

#[derive(Clone, Copy, Default)]
struct Counts {
    lines: u64,
    words: u64,
    bytes: u64,
}

impl Counts {
    /// Counts in `bytes`, which come after the byte `before`. A word begins where white space ends.
    fn of(before: u8, bytes: &[u8]) -> Self {
        let Some(&first) = bytes.first() else {
            return Self::default();
        };
        let mut counts = Self {
            bytes: bytes.len() as u64,
            ..Self::default()
        };
        counts.see(&[before], &[first]);
        // Each byte beside the one before it. The compiler makes vector instructions of sums of `u8`, and 255 steps
        // cannot overflow one.
        for (before, here) in bytes.chunks(255).zip(bytes[1..].chunks(255)) {
            counts.see(before, here);
        }
        counts
    }

    fn see(&mut self, before: &[u8], here: &[u8]) {
        let (mut lines, mut words) = (0u8, 0u8);
        for (&before, &here) in before.iter().zip(here) {
            lines += u8::from(here == b'\n');
            words += u8::from(is_space(before) & !is_space(here));
        }
        self.lines += u64::from(lines);
        self.words += u64::from(words);
    }
}

/// isspace(3) in the C locale.
fn is_space(byte: u8) -> bool {
    (byte == b' ') | (byte.wrapping_sub(b'\t') < 5)
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.lines += other.lines;
        self.words += other.words;
        self.bytes += other.bytes;
    }
}

/// A progress bar, on a terminal and after 400 ms only.
struct Bar {
    bar: ProgressBar,
    since: Instant,
}

impl Bar {
    fn new(is_stdin: bool) -> Self {
        // It would overwrite the input line.
        let typed = is_stdin && io::stdin().is_terminal();
        let bar = if typed {
            ProgressBar::hidden()
        } else {
            ProgressBar::no_length()
        };
        Self {
            bar,
            since: Instant::now(),
        }
    }

    fn show(&self, what: &'static str, done: u64, total: Option<u64>) {
        if self.bar.is_hidden() || self.since.elapsed() < Duration::from_millis(400) {
            return;
        }
        let (template, total) = match total {
            Some(total) => ("{wide_bar} {bytes} of {total_bytes} {msg}", total),
            None => ("{spinner} {bytes} {msg}, {bytes_per_sec}", done),
        };
        self.bar
            .set_style(ProgressStyle::with_template(template).expect("a template"));
        self.bar.set_message(what);
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Columns as wide as needed, under their names. A path is written as it is: it need not be UTF-8.
fn table(rows: &[(Counts, String, Vec<u8>)], how: bool) -> Vec<u8> {
    let digits = |number: u64| number.to_string().len();
    let widest = rows
        .iter()
        .map(|(counts, ..)| digits(counts.bytes.max(counts.lines)))
        .max();
    let width = widest.unwrap_or(0).max("lines".len());
    let mut text = Vec::new();
    let mut line = |cells: [&str; 4], name: &[u8]| {
        let [lines, words, bytes, backing] = cells;
        let mut start = format!("{lines:>width$} {words:>width$} {bytes:>width$} ");
        if how {
            _ = write!(start, "{backing:<9} ");
        }
        text.extend_from_slice(start.as_bytes());
        text.extend_from_slice(name);
        text.push(b'\n');
    };
    line(["lines", "words", "bytes", "how"], b"file");
    for (counts, backing, name) in rows {
        let Counts {
            lines,
            words,
            bytes,
        } = counts;
        line(
            [
                &lines.to_string(),
                &words.to_string(),
                &bytes.to_string(),
                backing,
            ],
            name,
        );
    }
    text
}

/// One line for an error and its causes. If standard error is closed as well, it is dropped.
fn complain(error: &dyn Error) {
    let mut line = format!("count: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        _ = write!(line, ": {error}");
        cause = error.source();
    }
    line.push('\n');
    _ = io::stderr().write_all(line.as_bytes());
}
