//! The command line of a scoreboard, and what it prints.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::measure::{Board, Plan};
use crate::{files, machine, table};

/// Measures stillmap against its peers and against what the kernel allows, all in one run.
#[derive(Debug, Parser)]
pub struct Args {
    /// Also write every contender's numbers to FILE
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Only workloads with SUBSTR in `room: workload`; may be repeated
    #[arg(long, value_name = "SUBSTR")]
    only: Vec<String>,
    /// Fewer rounds, no workloads of more than 512 MiB: about 3 minutes
    #[arg(long)]
    quick: bool,
    /// Also print a row for each contender
    #[arg(long)]
    every: bool,
    /// Given by `cargo bench`; without it each small workload runs once, to see that it works
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// The machine and the plan, for the CSV.
const NAME: &str = concat!(
    env!("CARGO_PKG_NAME"),
    " ",
    env!("CARGO_PKG_VERSION"),
    ": cargo bench --bench ",
    env!("CARGO_CRATE_NAME"),
    " --"
);

/// Runs the workloads, then prints.
pub fn run(args: Args, rooms: impl FnOnce(&mut Board) -> io::Result<()>) -> io::Result<()> {
    let (least_rounds, most_rounds, budget, largest) = match args {
        Args { bench: false, .. } => (1, 1, Duration::ZERO, 16 << 20),
        // About 3 minutes: without the workloads of a gigabyte.
        Args { quick: true, .. } => (3, 50, Duration::from_millis(400), 512 << 20),
        Args { .. } => (7, 200, Duration::from_secs(3), u64::MAX),
    };
    let mut board = Board::new(Plan {
        budget,
        least_rounds,
        most_rounds,
        largest,
        only: args.only,
    });
    rooms(&mut board)?;
    let outcomes = &board.outcomes;
    let machine = machine::describe(&files::directory()?);
    let options = std::env::args()
        .skip(1)
        .filter(|option| option != "--bench");
    let command = [NAME.to_owned()]
        .into_iter()
        .chain(options)
        .collect::<Vec<_>>()
        .join(" ");
    let remarks = [machine, command];
    if let Some(path) = args.csv {
        table::write_csv(&path, &remarks, outcomes)?;
    }
    let mut text = table::summary(outcomes);
    if args.every {
        text += "\n";
        text += &table::details(outcomes);
    }
    text += "
Medians; ± is the median deviation of the rounds. A ratio above 1: stillmap is faster.
RSS: the most memory beyond what there was before, mapped page cache included.
others: how much of one processor other programs had meanwhile; much of it, and the row is worth little.
";
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
