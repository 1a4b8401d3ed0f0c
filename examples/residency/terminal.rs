//! The heat map in a terminal, two cells to a character; one line for each file where it is none.

use std::env;
use std::fmt::Write;

use stillmap::page;

use crate::View;

/// Characters in front of a row of the map: where in the file it starts.
const LABEL: usize = 10;

/// The most rows of characters for a file, if it is the only one and if there are others.
const ROWS: (usize, usize) = (16, 4);

pub fn draw(text: &mut String, views: &[View], is_terminal: bool, width: Option<usize>) {
    let width = width.unwrap_or_else(columns);
    let rows = if views.len() == 1 { ROWS.0 } else { ROWS.1 };
    let colour = is_terminal && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    for view in views {
        if colour {
            heading(text, view, true);
            map(text, view, width, rows);
        } else {
            heading(text, view, false);
            if view.bytes > 0 {
                _ = writeln!(text, "{:width$}", view.residency);
            }
        }
    }
    if views.len() > 1 {
        let of = |f: fn(&View) -> u64| views.iter().map(f).sum::<u64>();
        let (resident, bytes) = (
            of(|view| view.residency.resident_bytes() as u64),
            of(|v| v.bytes),
        );
        let percent = percent(resident, bytes);
        _ = writeln!(text, "total: {percent} of {} in RAM", size(bytes));
    }
    if colour && views.iter().any(|view| view.bytes > 0) {
        legend(text, width);
    }
}

/// `name: 37% of 1.0 GiB in RAM, 97,123 of 262,144 pages`
fn heading(text: &mut String, view: &View, bold: bool) {
    let (on, off) = if bold {
        ("\x1b[1m", "\x1b[0m")
    } else {
        ("", "")
    };
    _ = write!(text, "{on}{}{off}: ", view.name);
    let residency = &view.residency;
    if view.bytes == 0 {
        text.push_str("empty\n");
    } else if !residency.is_known() {
        text.push_str("not told: the file is neither yours nor writable for you\n");
    } else {
        let resident = residency.resident_bytes() as u64;
        _ = writeln!(
            text,
            "{} of {} in RAM, {} of {}",
            percent(resident, view.bytes),
            size(view.bytes),
            grouped(residency.resident()),
            pages(residency.pages()),
        );
    }
}

fn map(text: &mut String, view: &View, width: usize, rows: usize) {
    if !view.residency.is_known() || view.bytes == 0 {
        return;
    }
    let indent = indent(width);
    let width = width.saturating_sub(LABEL + 1).max(1);
    // Whole rows of cells, and two of them in a row of characters.
    let cells = view.residency.parts(width * rows * 2).len();
    let lines = cells.div_ceil(width);
    let parts: Vec<f64> = view.residency.parts(width * lines).collect();
    let pairs = parts.chunks(2 * width);
    for (row, pair) in pairs.enumerate() {
        let first = row * 2 * width;
        let offset = view.bytes as u128 * first as u128 / parts.len() as u128;
        _ = write!(text, "{:>LABEL$} ", size(offset as u64));
        let (upper, lower) = pair.split_at(pair.len().min(width));
        let mut last = None;
        for (column, &part) in upper.iter().enumerate() {
            let colours = (heat(part), lower.get(column).map(|&part| heat(part)));
            if last.replace(colours) != Some(colours) {
                text.push_str("\x1b[0m");
                foreground(text, colours.0);
                if let Some(lower) = colours.1 {
                    background(text, lower);
                }
            }
            text.push('▀');
        }
        text.push_str("\x1b[0m\n");
    }
    let cell = view.bytes.div_ceil(parts.len().max(1) as u64);
    let pages = view.residency.pages() as f64 / parts.len().max(1) as f64;
    let pages = match pages {
        1.0 => "a page".to_owned(),
        pages => format!("{pages:.1} pages"),
    };
    _ = writeln!(text, "{:indent$}one cell is {}, {pages}", "", size(cell));
}

fn legend(text: &mut String, width: usize) {
    const WORDS: [&str; 2] = ["nothing ", " all in RAM"];
    let indent = indent(width);
    let room = width.saturating_sub(indent + WORDS[0].len() + WORDS[1].len() + 1);
    let steps = (room / 2).clamp(2, 13) - 1;
    _ = write!(text, "{:indent$}{}", "", WORDS[0]);
    for step in 0..=steps {
        background(text, heat(step as f64 / steps as f64));
        text.push_str(if room < 4 { " " } else { "  " });
    }
    _ = writeln!(text, "\x1b[0m{}", WORDS[1]);
}

/// How far what is below the map is moved in: not at all where there is no room.
fn indent(width: usize) -> usize {
    if width < 60 { 0 } else { LABEL + 1 }
}

/// Red, green, blue for a share in RAM: grey for nothing, then from violet to yellow.
pub fn heat(share: f64) -> (u8, u8, u8) {
    const STOPS: [(f64, [f64; 3]); 4] = [
        (0.0, [72.0, 40.0, 120.0]),
        (0.4, [176.0, 50.0, 110.0]),
        (0.75, [240.0, 120.0, 50.0]),
        (1.0, [252.0, 210.0, 70.0]),
    ];
    if share <= 0.0 {
        return (48, 52, 60);
    }
    let above = STOPS
        .iter()
        .position(|stop| stop.0 >= share)
        .unwrap_or(3)
        .max(1);
    let (from, to) = (STOPS[above - 1], STOPS[above]);
    let way = (share - from.0) / (to.0 - from.0);
    let mixed = [0, 1, 2].map(|i| (from.1[i] + (to.1[i] - from.1[i]) * way) as u8);
    (mixed[0], mixed[1], mixed[2])
}

fn foreground(text: &mut String, colour: (u8, u8, u8)) {
    paint(text, 38, colour);
}

fn background(text: &mut String, colour: (u8, u8, u8)) {
    paint(text, 48, colour);
}

/// In 24 bits where the terminal says that it can, else in the nearest of the 6x6x6 colours or 24 greys.
fn paint(text: &mut String, ground: u8, (red, green, blue): (u8, u8, u8)) {
    let exact = env::var("COLORTERM").is_ok_and(|value| value == "truecolor" || value == "24bit");
    if exact {
        _ = write!(text, "\x1b[{ground};2;{red};{green};{blue}m");
        return;
    }
    let spread = red.abs_diff(green).max(green.abs_diff(blue));
    let index = match spread {
        0..16 => 232 + u16::from(green.saturating_sub(8)) / 10,
        _ => {
            let level = |value: u8| u16::from(value.saturating_sub(35)) / 40;
            16 + 36 * level(red) + 6 * level(green) + level(blue)
        }
    };
    _ = write!(text, "\x1b[{ground};5;{index}m");
}

/// How wide the terminal is, in characters.
fn columns() -> usize {
    // SAFETY: an all-zero answer is valid, and the kernel fills in one struct.
    let columns = unsafe {
        let mut answer: libc::winsize = std::mem::zeroed();
        libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut answer);
        usize::from(answer.ws_col)
    };
    let given = || env::var("COLUMNS").ok()?.parse().ok();
    match columns {
        0 => given().unwrap_or(80),
        columns => columns,
    }
    .clamp(20, 1000)
}

/// `1.5 GiB`
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut number = bytes as f64;
    while number >= 1023.5 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    match number {
        number if unit == 0 || number >= 99.95 || number.fract() == 0.0 => {
            format!("{number:.0} {}", UNITS[unit])
        }
        number => format!("{number:.1} {}", UNITS[unit]),
    }
}

/// `12,345`
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

/// `1 page`, `12,345 pages`
pub fn pages(number: usize) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} page{plural}", grouped(number))
}

/// Rounded, but 0% and 100% are said of nothing and everything only.
pub fn percent(part: u64, whole: u64) -> String {
    let percent = 100.0 * part as f64 / whole.max(1) as f64;
    match percent {
        _ if part == 0 => "nothing".to_owned(),
        _ if part == whole => "all".to_owned(),
        percent if percent < 1.0 => "under 1%".to_owned(),
        percent => format!("{:.0}%", percent.min(99.0)),
    }
}

/// What a picture says of page sizes.
pub fn page_size() -> String {
    size(page::size() as u64)
}
