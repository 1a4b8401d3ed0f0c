//! Shows which pages of files are in RAM: a heat map in the terminal, a line of text elsewhere, an SVG picture.

mod picture;
mod terminal;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use stillmap::{Error, Mapping, Residency, Snapshot};

/// Show which pages of each FILE are in RAM. Nothing is read to find out.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// What to look at; only regular files have pages of their own
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Also draw it as a picture
    #[arg(long, value_name = "OUT.svg")]
    svg: Option<PathBuf>,
    /// Draw again every so many seconds, until interrupted
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        value_parser = seconds
    )]
    watch: Option<Duration>,
    /// Start reading the files into RAM first; does not wait for it
    #[arg(long, conflicts_with = "evict")]
    prefetch: bool,
    /// Drop the files from RAM first, as far as nobody uses them
    #[arg(long)]
    evict: bool,
    /// How wide to draw, in characters [default: as the terminal is]
    #[arg(long, value_parser = clap::value_parser!(u16).range(20..))]
    width: Option<u16>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// A file as it was at one moment.
struct View {
    name: String,
    bytes: u64,
    residency: Residency,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut all_moved = true;
    if args.prefetch || args.evict {
        for path in &args.files {
            let moved = open(path).and_then(|file| match args.evict {
                true => evict(&file),
                false => Ok(map(&file)?.prefetch(..)?),
            });
            if let Err(error) = moved {
                all_moved = false;
                eprintln!("residency: {}: {error}", name(path));
            }
        }
    }
    match run(&args) {
        Ok(true) if all_moved => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        // As a reader like `head` leaves: it has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("residency: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Draws once, or again and again; false if a file could not be looked at.
fn run(args: &Args) -> io::Result<bool> {
    let mut stdout = io::stdout();
    let is_terminal = stdout.is_terminal();
    // Drawn over what was there, which flickers less than to clear it.
    let redraws = is_terminal && args.watch.is_some();
    if redraws {
        stdout.write_all(b"\x1b[2J")?;
    }
    let mut before = None;
    loop {
        let mut views = Vec::new();
        let mut errors = String::new();
        for path in &args.files {
            match look(path) {
                Ok(view) => views.push(view),
                Err(error) => errors += &format!("residency: {}: {error}\n", name(path)),
            }
        }
        let mut text = String::new();
        terminal::draw(&mut text, &views, is_terminal, args.width.map(usize::from));
        let resident = |view: &View| view.residency.resident_bytes() as u64;
        let now = views.iter().map(resident).sum::<u64>();
        if let Some(before) = before.replace(now) {
            let (sign, by) = match now >= before {
                true => ('+', now - before),
                false => ('-', before - now),
            };
            text += &format!("{sign}{} since the last look\n", terminal::size(by));
        }
        if redraws {
            text = format!("{text}{errors}").replace('\n', "\x1b[K\n");
            text = format!("\x1b[H{text}\x1b[J");
        } else {
            eprint!("{errors}");
        }
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        if let Some(path) = &args.svg {
            picture::draw(path, &views)
                .map_err(|e| io::Error::other(format!("{}: {e}", name(path))))?;
        }
        match args.watch {
            Some(interval) => thread::sleep(interval),
            None => return Ok(errors.is_empty()),
        }
    }
}

fn look(path: &Path) -> io::Result<View> {
    let file = open(path)?;
    let snapshot = map(&file)?;
    Ok(View {
        name: name(path),
        bytes: file.metadata()?.len(),
        residency: snapshot.residency()?,
    })
}

fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    match file.metadata()?.is_dir() {
        true => Err(io::ErrorKind::IsADirectory.into()),
        false => Ok(file),
    }
}

/// A name is whatever its maker liked; what would move the cursor, or be no XML, is shown as an escape.
fn name(path: &Path) -> String {
    let mut name = String::new();
    for character in path.display().to_string().chars() {
        match character.is_control() {
            true => name.extend(character.escape_default()),
            false => name.push(character),
        }
    }
    name
}

/// A view of the file itself, with no lease that would hold its writers back, and no copy.
fn map(file: &File) -> io::Result<Snapshot> {
    // SAFETY: no byte of it is ever looked at, so it does not matter who changes them.
    match unsafe { Snapshot::map_unguarded(file) } {
        // Its message names the file, as ours does.
        Err(Error::NotMappable { what, .. }) => Err(io::Error::other(what)),
        mapped => Ok(mapped?),
    }
}

/// Only clean pages can go, so they are written back first.
fn evict(file: &File) -> io::Result<()> {
    file.sync_data()?;
    // SAFETY: takes numbers.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}
