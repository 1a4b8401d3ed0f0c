//! What is said of mmap and malloc, each sentence measured on the machine at hand.
#![allow(clippy::disallowed_methods)] // mmap is what it tries

mod claims;
mod kernel;
mod picture;
mod touch;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Measure what is said of mmap and malloc: what was claimed, what was seen here, and whether it held.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to make temporary files, some 100 MiB [default: the system's place for them]
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
    /// Also draw what the first touch of memory costs
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
}

/// One sentence, and what became of it.
#[derive(Debug)]
pub struct Claim {
    pub claimed: &'static str,
    pub measured: String,
    pub held: Held,
}

#[derive(Debug)]
pub enum Held {
    Yes,
    No,
    /// It could not be tried, and why.
    Untried(String),
}

impl From<bool> for Held {
    fn from(held: bool) -> Self {
        if held { Held::Yes } else { Held::No }
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // As a reader like `head` leaves: it has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mmap_vs_malloc: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let mut stdout = io::stdout();
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    writeln!(stdout, "{}\n", kernel::machine())?;
    let (mut held, mut tried, mut untried) = (0, 0, 0);
    for (number, claim) in claims::all(&dir).enumerate() {
        let (word, colour_of) = match &claim.held {
            Held::Yes => ("yes".to_owned(), "32"),
            Held::No => ("no".to_owned(), "31"),
            Held::Untried(why) => (format!("not tried: {why}"), "33"),
        };
        held += usize::from(matches!(claim.held, Held::Yes));
        match claim.held {
            Held::Untried(_) => untried += 1,
            Held::Yes | Held::No => tried += 1,
        }
        let (bold, paint, off) = match colour {
            true => ("\x1b[1m", format!("\x1b[{colour_of}m"), "\x1b[0m"),
            false => ("", String::new(), ""),
        };
        writeln!(
            stdout,
            "{:>2}  claimed   {bold}{}{off}",
            number + 1,
            claim.claimed
        )?;
        if !claim.measured.is_empty() {
            let lines = wrapped(&claim.measured);
            writeln!(stdout, "    measured  {}", lines.join("\n              "))?;
        }
        writeln!(stdout, "    held?     {paint}{word}{off}\n")?;
        stdout.flush()?;
    }
    let not_tried = match untried {
        0 => String::new(),
        untried => format!("; {untried} could not be tried"),
    };
    writeln!(stdout, "{held} of {tried} held here{not_tried}.")?;
    if let Some(path) = &args.svg {
        picture::draw(path).map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
    }
    Ok(())
}

/// In lines of at most so many characters, where words allow it.
fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 84;
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split(' ') {
            if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines.push(line);
    }
    lines
}
