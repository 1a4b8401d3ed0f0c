//! What anonymous memory costs, step by step: address space is free, pages cost when touched, and come back at once.

use std::fs;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use stillmap::{Anonymous, HugePages, page};

/// Resize and discard a zeroed anonymous mapping, and show its resident memory and page faults after each step.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Length of the mapping to start with
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=1 << 20))]
    mib: u32,
}

fn main() -> ExitCode {
    match run((Args::parse().mib as usize) << 20) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            _ = writeln!(io::stderr(), "grow: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every claim held.
fn run(len: usize) -> io::Result<bool> {
    let page = page::size();
    let quarter = len / 4;
    let head = ["step", "length", "resident", "faults", "held", "claim"];
    let [step, length, resident, faults, held, claim] = head;
    writeln!(
        io::stdout(),
        "{step:<34} {length:>12} {resident:>12} {faults:>7} {held:<4} {claim}"
    )?;
    let mut log = Log {
        held: true,
        faults: faults_now()?,
    };

    // Pages of the smallest size, so that they can be counted.
    let mut memory = Anonymous::options()
        .huge_pages(HugePages::Never)
        .allocate(len)?;
    log.step("allocate", &memory, "address space, no memory", |now| {
        now.resident == 0
    })?;

    memory[0] = 1;
    log.step(
        "write one byte",
        &memory,
        "one fault brings one page",
        |now| now.resident == page && now.faults >= 1,
    )?;

    touch(&mut memory[..quarter], page);
    log.step(
        "write to each page of a quarter",
        &memory,
        "a page for each page touched, a fault for each",
        |now| now.resident == quarter && now.faults >= quarter / page - 1,
    )?;

    memory.resize(4 * len)?;
    let kept = memory[0] == 1 && memory[quarter - page] == 1 && memory[4 * len - page] == 0;
    // The byte of the new part that was looked at shows the one zero page that all share.
    log.step(
        "resize to four times",
        &memory,
        "no copy, no memory: pages move with the mapping",
        |now| kept && now.resident == quarter && now.faults < 8,
    )?;

    let eighth = len / 8;
    memory.resize(eighth)?;
    log.step(
        "resize to half of what is touched",
        &memory,
        "the tail's memory goes back, the rest stays",
        |now| now.resident == eighth,
    )?;

    memory.discard(page..)?;
    log.step(
        "discard all but the first page",
        &memory,
        "memory goes back at once, the length stays",
        |now| now.resident == page,
    )?;

    let zero = memory[page..].iter().step_by(page).all(|&byte| byte == 0);
    let kept = memory[0] == 1;
    log.step(
        "read what was discarded",
        &memory,
        "reads as zeros, for no memory",
        |now| zero && kept && now.resident == page,
    )?;

    drop(memory);
    let mut memory = Anonymous::options()
        .huge_pages(HugePages::Transparent)
        .allocate(len)?;
    log.step(
        "again, with huge pages",
        &memory,
        "address space, no memory",
        |now| now.resident == 0,
    )?;

    // A kernel without huge pages, or without one to spare, gives small ones: slower, not wrong.
    touch(&mut memory, page);
    log.step(
        "write to each page of all",
        &memory,
        "few faults where huge pages are to be had",
        |now| now.resident == len,
    )?;

    memory.discard(..)?;
    log.step("discard all", &memory, "memory goes back at once", |now| {
        now.resident == 0
    })?;
    Ok(log.held)
}

fn touch(bytes: &mut [u8], page: usize) {
    for byte in bytes.iter_mut().step_by(page) {
        *byte = 1;
    }
}

/// What the kernel says after a step.
struct Now {
    /// Bytes of the mapping that have memory.
    resident: usize,
    /// Page faults since the last step, those of this program's own work included.
    faults: usize,
}

struct Log {
    held: bool,
    faults: usize,
}

impl Log {
    fn step(
        &mut self,
        step: &str,
        memory: &[u8],
        claim: &str,
        holds: impl FnOnce(&Now) -> bool,
    ) -> io::Result<()> {
        let faults = faults_now()?;
        let now = Now {
            resident: resident(memory)?,
            faults: faults - self.faults,
        };
        let held = holds(&now);
        self.held &= held;
        let (length, resident, faults) = (memory.len(), now.resident, now.faults);
        let (length, resident) = (
            format!("{} KiB", length >> 10),
            format!("{} KiB", resident >> 10),
        );
        let held = if held { "yes" } else { "NO" };
        writeln!(
            io::stdout(),
            "{step:<34} {length:>12} {resident:>12} {faults:>7} {held:<4} {claim}"
        )?;
        // Not counted: what looking and printing took.
        self.faults = faults_now()?;
        Ok(())
    }
}

/// Resident bytes between the first and the last byte of `memory`, from /proc/self/smaps.
fn resident(memory: &[u8]) -> io::Result<usize> {
    let range = memory.as_ptr_range();
    let (start, end) = (range.start as usize, range.end as usize);
    let mut inside = false;
    let mut kib = 0;
    for line in fs::read_to_string("/proc/self/smaps")?.lines() {
        if let Some((from, to)) = mapping(line) {
            inside = from < end && start < to;
        } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| inside) {
            kib += rss
                .trim()
                .trim_end_matches(" kB")
                .parse::<usize>()
                .map_err(io::Error::other)?;
        }
    }
    Ok(kib << 10)
}

/// The addresses at the head of a mapping's part in smaps: `7f0000000000-7f0000001000 rw-p ...`.
fn mapping(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split(' ').next()?.split_once('-')?;
    Some((
        usize::from_str_radix(from, 16).ok()?,
        usize::from_str_radix(to, 16).ok()?,
    ))
}

/// Page faults of this process that needed no disk, from /proc/self/stat.
fn faults_now() -> io::Result<usize> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The name of the program, in brackets, may hold anything; the tenth field is the eighth after it.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let field = after.split_whitespace().nth(7).unwrap_or_default();
    field.parse().map_err(io::Error::other)
}
