//! The command line of a scoreboard, and what it prints.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::measure::{Board, Plan};
use crate::{files, machine, table};

/// Measures folio against its peers and against what the kernel allows, all in one run.
#[derive(Debug, Parser)]
struct Args {
    /// Also write every contender's numbers to FILE
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Only workloads with SUBSTR in `room: workload`; may be repeated
    #[arg(long, value_name = "SUBSTR")]
    only: Vec<String>,
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
    /// Also print a row for each contender
    #[arg(long)]
    every: bool,
    /// Given by `cargo bench`; without it each small workload runs once, to see that it works
    #[arg(long, hide = true)]
    bench: bool,
}

/// Lets the rooms measure, then prints.
pub fn run(rooms: impl FnOnce(&mut Board) -> io::Result<()>) -> io::Result<()> {
    let args = Args::parse();
    let (least_rounds, most_rounds, budget, largest) = match args {
        Args { bench: false, .. } => (1, 1, Duration::ZERO, 1 << 20),
        Args { quick: true, .. } => (3, 50, Duration::from_millis(400), u64::MAX),
        Args { .. } => (7, 200, Duration::from_secs(4), u64::MAX),
    };
    let mut board = Board::new(Plan {
        budget,
        least_rounds,
        most_rounds,
        largest,
        only: args.only,
    });
    let load = machine::load();
    rooms(&mut board)?;
    let outcomes = &board.outcomes;
    let machine = machine::describe(&files::directory()?);
    let load = format!(
        "load average {load} before, {} after (1 is this program)",
        machine::load()
    );
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let command = format!("folio {}, scoreboard {command}", env!("CARGO_PKG_VERSION"));
    let remarks = [machine, load, command];
    if let Some(path) = args.csv {
        table::write_csv(&path, &remarks, outcomes)?;
    }
    let mut text = table::summary(outcomes);
    if args.every {
        text += "\n";
        text += &table::details(outcomes);
    }
    text +=
        "\nMedians; ± is the median deviation of the rounds. A ratio above 1: folio is faster.\n";
    text += &remarks.map(|remark| remark + "\n").concat();
    let missed = table::missed(outcomes);
    if !missed.is_empty() && args.bench {
        text += "\nBelow what was claimed:\n";
        text += &missed;
    }
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
