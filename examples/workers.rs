//! Forked workers fill one mapping in place and count into shared memory; one that dies is replaced.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{iter, thread};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use stillmap::fork::{self, Scope};
use stillmap::{Anonymous, Error, Shared};

/// Count the Collatz steps of all numbers below N, by forked workers, and print which number takes most.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Numbers to try
    #[arg(long, value_name = "N", default_value_t = 3_000_000, value_parser = clap::value_parser!(u32).range(2..))]
    below: u32,
    /// Workers; by default one for each processor
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Kill the first worker in the middle of its part, which is then done again and counted again
    #[arg(long)]
    kill: bool,
}

stillmap::shareable! {
    /// What the workers count while they work.
    struct Counters {
        numbers: AtomicU64,
        steps: AtomicU64,
        /// Set when nobody waits for a worker any more.
        finished: AtomicU64,
    }
}

/// A number of steps in the mapping: two bytes.
const WIDTH: usize = 2;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}"));
            _ = writeln!(
                io::stderr(),
                "workers: {error}{}",
                cause.unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let below = args.below as usize;
    let processors = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = args.workers.unwrap_or(processors).get().min(below);
    let part = below.div_ceil(workers);
    let counters = Shared::<Counters>::new()?;
    // One flag for each part: what a dead worker left half done is done again.
    let done = Shared::<[AtomicU64]>::with_len(below.div_ceil(part))?;
    let mut steps = Anonymous::shared(below * WIDTH)?;
    let mut lost = 0;
    let mut kill = args.kill;
    while done.iter().any(|done| done.load(Ordering::Acquire) == 0) {
        counters.finished.store(0, Ordering::Relaxed);
        lost += round(&mut steps, part, &counters, &done, kill)?;
        kill = false;
    }
    let all = steps
        .chunks_exact(WIDTH)
        .map(|s| u16::from_ne_bytes([s[0], s[1]]));
    let (most, number) = iter::zip(all, 0_u64..)
        .max_by_key(|&(s, n)| (s, u64::MAX - n))
        .unwrap_or((0, 0));
    writeln!(
        io::stdout(),
        "{number} takes {most} steps, more than any other number below {below}\n\
         {workers} workers, {lost} lost and replaced, {} numbers and {} steps counted",
        counters.numbers.load(Ordering::Relaxed),
        counters.steps.load(Ordering::Relaxed)
    )?;
    Ok(())
}

/// A worker for each part that is not done, and a child that draws; gives how many workers died.
fn round(
    steps: &mut [u8],
    part: usize,
    counters: &Counters,
    done: &[AtomicU64],
    kill: bool,
) -> stillmap::Result<usize> {
    let total = (steps.len() / WIDTH) as u64;
    fork::scope(|s| {
        s.spawn(move || draw(total, counters))?;
        let lost = work(s, steps, part, counters, done, kill);
        counters.finished.store(1, Ordering::Relaxed);
        lost
    })?
}

fn work<'scope>(
    s: &'scope Scope<'scope, '_>,
    steps: &'scope mut [u8],
    part: usize,
    counters: &'scope Counters,
    done: &'scope [AtomicU64],
    kill: bool,
) -> stillmap::Result<usize> {
    let mut workers = Vec::new();
    for (index, chunk) in steps.chunks_mut(part * WIDTH).enumerate() {
        if done[index].load(Ordering::Acquire) == 0 {
            let doomed = kill && index == 0;
            workers.push(s.spawn(move || {
                fill(chunk, index * part, counters, doomed);
                done[index].store(1, Ordering::Release);
            })?);
        }
    }
    if let Some(doomed) = workers.first().filter(|_| kill) {
        let id = doomed.id().to_string();
        let killed = Command::new("kill").args(["-9", &id]).status();
        let killed = killed.and_then(|status| match status.success() {
            true => Ok(()),
            false => Err(io::Error::other(status.to_string())),
        });
        killed.expect("kill(1)");
    }
    let mut lost = 0;
    for worker in workers {
        let status = worker.wait()?;
        if !status.success() {
            _ = writeln!(io::stderr(), "workers: a worker was lost: {status}");
            lost += 1;
        }
    }
    Ok(lost)
}

/// Fills its part of the mapping, where it is.
fn fill(chunk: &mut [u8], first: usize, counters: &Counters, doomed: bool) {
    let middle = chunk.len() / WIDTH / 2;
    // Counted in batches: the counters are on one cache line, which all workers want.
    for (batch, numbers) in chunk.chunks_mut(1024 * WIDTH).enumerate() {
        let mut taken = 0;
        for (offset, place) in numbers.chunks_exact_mut(WIDTH).enumerate() {
            let steps = collatz((first + batch * 1024 + offset) as u64);
            place.copy_from_slice(&steps.to_ne_bytes());
            taken += u64::from(steps);
        }
        // Until it is killed, or could not be.
        while doomed
            && batch * 1024 >= middle.saturating_sub(1024)
            && counters.finished.load(Ordering::Relaxed) == 0
        {
            thread::sleep(Duration::from_millis(50));
        }
        counters
            .numbers
            .fetch_add((numbers.len() / WIDTH) as u64, Ordering::Relaxed);
        counters.steps.fetch_add(taken, Ordering::Relaxed);
    }
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

/// A progress bar, on a terminal, from nothing but the counters.
fn draw(total: u64, counters: &Counters) {
    let bar = ProgressBar::new(total);
    if let Ok(style) =
        ProgressStyle::with_template("{bar:40} {percent:>3} %  {per_sec}  {eta} left")
    {
        bar.set_style(style);
    }
    while counters.finished.load(Ordering::Relaxed) == 0 {
        bar.set_position(counters.numbers.load(Ordering::Relaxed));
        thread::sleep(Duration::from_millis(50));
    }
    bar.finish_and_clear();
}
