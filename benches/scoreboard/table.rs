//! The outcomes as a table and as CSV.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::measure::{Outcome, Role, Standing, Unit};
use crate::size;

/// One row for each workload: stillmap, the best peer, the limit.
pub fn summary(outcomes: &[Outcome]) -> String {
    let head = [
        "workload",
        "stillmap",
        "best peer",
        "ratio",
        "limit",
        "ratio to limit",
        "RSS stillmap",
        "RSS peer",
        "others",
    ];
    let rows = outcomes.iter().map(|outcome| {
        let stillmap = outcome.best(Role::Stillmap);
        let peer = outcome.best(Role::Peer);
        let limit = outcome.best(Role::Limit);
        let figure = |standing: Option<&Standing>| standing.map(|it| figure(it, outcome.unit));
        let named = |standing: Option<&Standing>| {
            standing.map(|it| format!("{}, {}", it.name, self::figure(it, outcome.unit)))
        };
        let ratio = |to: Option<&Standing>| {
            to.and_then(|to| outcome.ratio(to))
                .map(|ratio| format!("{ratio:.2}"))
        };
        let memory = |of: Option<&Standing>| of.and_then(|it| it.peak_rss).map(memory);
        let cells = [
            figure(stillmap),
            named(peer),
            ratio(peer),
            named(limit),
            ratio(limit),
            memory(stillmap),
            memory(peer),
            outcome
                .others
                .map(|others| format!("{:.0}%", 100.0 * others)),
        ];
        let cells = cells.into_iter().map(Option::unwrap_or_default);
        [format!("{}: {}", outcome.room, outcome.workload)]
            .into_iter()
            .chain(cells)
            .collect()
    });
    align(&head, rows)
}

/// One row for each contender, with the spread of its rounds.
pub fn details(outcomes: &[Outcome]) -> String {
    let head = [
        "workload",
        "contender",
        "median",
        "fastest",
        "slowest",
        "rounds",
        "stillmap is times",
        "RSS",
    ];
    let rows = outcomes.iter().flat_map(|outcome| {
        outcome.standings.iter().map(move |it| {
            let name = match it.role {
                Role::Limit => format!("{} (limit)", it.name),
                Role::Stillmap | Role::Peer => it.name.to_owned(),
            };
            vec![
                format!("{}: {}", outcome.room, outcome.workload),
                name,
                figure(it, outcome.unit),
                in_unit(it.fastest(), outcome.unit),
                in_unit(it.slowest(), outcome.unit),
                it.rounds().to_string(),
                outcome
                    .ratio(it)
                    .map(|ratio| format!("{ratio:.2}"))
                    .unwrap_or_default(),
                it.peak_rss.map(memory).unwrap_or_default(),
            ]
        })
    });
    align(&head, rows)
}

/// One line for each claim that did not hold.
pub fn missed(outcomes: &[Outcome]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        for (wanted, name, measured) in outcome.missed() {
            let Outcome { room, workload, .. } = outcome;
            _ = writeln!(
                text,
                "{room}: {workload}: {measured:.2} times {name}, not {wanted:.2}"
            );
        }
    }
    text
}

/// Everything, one line for each contender, times in nanoseconds for one item; lines with `#` tell the machine.
pub fn write_csv(path: &Path, remarks: &[String], outcomes: &[Outcome]) -> io::Result<()> {
    let mut text = String::new();
    for remark in remarks {
        _ = writeln!(text, "# {remark}");
    }
    text += "room,workload,item_bytes,contender,role,median_ns,fastest_ns,slowest_ns,deviation_ns,rounds,peak_rss_bytes,stillmap_times,others\n";
    for outcome in outcomes {
        for it in &outcome.standings {
            let bytes = match outcome.unit {
                Unit::Time => String::new(),
                Unit::Rate(bytes) => bytes.to_string(),
            };
            let role = match it.role {
                Role::Stillmap => "stillmap",
                Role::Peer => "peer",
                Role::Limit => "limit",
            };
            let rss = it.peak_rss.map(|rss| rss.to_string()).unwrap_or_default();
            let others = outcome
                .others
                .map(|others| format!("{others:.4}"))
                .unwrap_or_default();
            let ratio = outcome
                .ratio(it)
                .map(|ratio| format!("{ratio:.4}"))
                .unwrap_or_default();
            _ = writeln!(
                text,
                "{},\"{}\",{bytes},\"{}\",{role},{:.1},{:.1},{:.1},{:.1},{},{rss},{ratio},{others}",
                outcome.room,
                outcome.workload,
                it.name,
                it.median(),
                it.fastest(),
                it.slowest(),
                it.deviation(),
                it.rounds(),
            );
        }
    }
    fs::write(path, text)
}

fn figure(standing: &Standing, unit: Unit) -> String {
    let percent = 100.0 * standing.deviation() / standing.median();
    format!("{} ±{percent:.0}%", in_unit(standing.median(), unit))
}

fn in_unit(nanos: f64, unit: Unit) -> String {
    match unit {
        Unit::Rate(bytes) => format!("{:.2} GB/s", bytes as f64 / nanos),
        Unit::Time if nanos < 1e3 => format!("{nanos:.0} ns"),
        Unit::Time if nanos < 1e6 => format!("{:.2} µs", nanos / 1e3),
        Unit::Time if nanos < 1e9 => format!("{:.2} ms", nanos / 1e6),
        Unit::Time => format!("{:.2} s", nanos / 1e9),
    }
}

/// Rounded to a multiple of a power of two that fits in four digits.
fn memory(bytes: u64) -> String {
    let shift = match bytes {
        0..0x100_0000 => 10,
        0x100_0000.. => 20,
    };
    size::name((bytes + (1 << shift >> 1)) >> shift << shift)
}

fn align(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>();
    let rows = rows.collect::<Vec<_>>();
    let width = |column: usize| {
        rows.iter()
            .chain([&head])
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths = (0..head.len()).map(width).collect::<Vec<_>>();
    let line = widths
        .iter()
        .map(|&width| "-".repeat(width))
        .collect::<Vec<_>>();
    let mut text = String::new();
    for row in [&head, &line].into_iter().chain(&rows) {
        for (cell, &width) in row.iter().zip(&widths) {
            _ = write!(text, "| {cell:width$} ");
        }
        text += "|\n";
    }
    text
}
