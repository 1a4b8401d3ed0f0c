//! Forked workers fill one mapping in place, and a worker that dies is replaced.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::iter;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use stillmap::{Anonymous, Shared, fork};

/// Count the Collatz steps of all numbers below N, by forked workers, and print the number with the most steps.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Numbers to try
    #[arg(long, value_name = "N", default_value_t = 3_000_000, value_parser = clap::value_parser!(u32).range(2..))]
    below: u32,
    /// Workers; by default one for each processor
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// The first worker dies in the middle of its part
    #[arg(long)]
    kill: bool,
}

/// A number of steps in the mapping, in bytes.
const WIDTH: usize = 2;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            _ = writeln!(io::stderr(), "workers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    let below = args.below as usize;
    let processors = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = args.workers.unwrap_or(processors).get();
    let mut memory = Anonymous::shared(below * WIDTH)?;
    let counted = Shared::<AtomicU64>::new()?;
    // One entry for each part that is not filled yet.
    let mut missing: Vec<usize> = (0..workers).collect();
    let mut lost = 0;
    while !missing.is_empty() {
        missing = fork::scope(|s| {
            let mut children = Vec::new();
            let parts = memory.page_chunks_mut((below * WIDTH).div_ceil(workers));
            let mut first = 0;
            for (index, part) in parts.enumerate() {
                let start = first;
                first += part.len() / WIDTH;
                if missing.contains(&index) {
                    let doomed = args.kill && lost == 0 && index == 0;
                    let counted = &counted;
                    let child = s.spawn_with(part, move |part| fill(part, start, counted, doomed));
                    children.push((index, child?));
                }
            }
            let mut failed = Vec::new();
            for (index, child) in children {
                let status = child.wait()?;
                if !status.success() {
                    _ = writeln!(io::stderr(), "workers: a worker was lost: {status}");
                    failed.push(index);
                }
            }
            Ok::<_, stillmap::Error>(failed)
        })??;
        lost += missing.len();
    }
    let steps = memory.chunks_exact(WIDTH);
    let steps = steps.map(|s| u16::from_ne_bytes([s[0], s[1]]));
    let most = iter::zip(steps, 0_u64..).max_by_key(|&(steps, n)| (steps, u64::MAX - n));
    let (steps, number) = most.unwrap_or((0, 0));
    writeln!(
        io::stdout(),
        "{number} takes {steps} steps, more than any other number below {below}\n\
         {workers} workers, {lost} lost and replaced, {} numbers counted",
        counted.load(Ordering::Relaxed)
    )
}

/// Fills a part of the mapping in place.
fn fill(part: &mut [u8], first: usize, counted: &AtomicU64, doomed: bool) {
    let middle = part.len() / 2;
    for (index, place) in part.chunks_exact_mut(WIDTH).enumerate() {
        if doomed && index * WIDTH >= middle {
            std::process::abort();
        }
        place.copy_from_slice(&collatz((first + index) as u64).to_ne_bytes());
    }
    counted.fetch_add((part.len() / WIDTH) as u64, Ordering::Relaxed);
}

fn collatz(number: u64) -> u16 {
    let next = |&n: &u64| match n {
        0 | 1 => None,
        n if n % 2 == 0 => Some(n / 2),
        n => Some(3 * n + 1),
    };
    let steps = iter::successors(Some(number), next).count() - 1;
    u16::try_from(steps).unwrap_or(u16::MAX)
}
