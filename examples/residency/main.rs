//! Shows which pages of files are in RAM: a heat map in the terminal, a line of text elsewhere, an SVG picture.

mod picture;
mod terminal;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Parser;
use folio::{Mapping, Residency, Snapshot};

/// Show which pages of each FILE are in RAM. Nothing is read to find out.
#[derive(Parser)]
#[command(version)]
struct Args {
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
    if args.prefetch || args.evict {
        for path in &args.files {
            let moved = File::open(path).and_then(|file| match args.evict {
                true => evict(&file),
                false => Ok(map(&file)?.prefetch(..)?),
            });
            if let Err(error) = moved {
                eprintln!("residency: {}: {error}", path.display());
            }
        }
    }
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
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
    let mut before = None;
    loop {
        let mut views = Vec::new();
        let mut all_well = true;
        for path in &args.files {
            match look(path.clone()) {
                Ok(view) => views.push(view),
                Err(error) => {
                    all_well = false;
                    eprintln!("residency: {}: {error}", path.display());
                }
            }
        }
        let mut text = String::new();
        let mut stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        if is_terminal && args.watch.is_some() {
            // Home, and clear what is below.
            text += "\x1b[H\x1b[2J";
        }
        terminal::draw(&mut text, &views, is_terminal, args.width.map(usize::from));
        let now = views
            .iter()
            .map(|view| view.residency.resident_bytes() as u64)
            .sum::<u64>();
        if let Some(before) = before.replace(now) {
            let (sign, by) = match now >= before {
                true => ('+', now - before),
                false => ('-', before - now),
            };
            text += &format!("{sign}{} since the last look\n", terminal::size(by));
        }
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        if let Some(path) = &args.svg {
            picture::draw(path, &views).map_err(io::Error::other)?;
        }
        match args.watch {
            Some(interval) => thread::sleep(interval),
            None => return Ok(all_well),
        }
    }
}

fn look(path: PathBuf) -> io::Result<View> {
    let file = File::open(&path)?;
    let snapshot = map(&file)?;
    Ok(View {
        name: path.display().to_string(),
        bytes: file.metadata()?.len(),
        residency: snapshot.residency()?,
    })
}

/// A view of the file itself, with no lease that would hold its writers back, and no copy.
fn map(file: &File) -> folio::Result<Snapshot> {
    // SAFETY: no byte of it is ever looked at, so it does not matter who changes them.
    unsafe { Snapshot::map_unguarded(file) }
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
