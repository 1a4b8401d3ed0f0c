//! Draws the scoreboard's CSV: `cargo bench --bench chart -- scoreboard.csv docs/throughput.svg`.

use std::error::Error;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Parser;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Draw throughput by size, from what the scoreboard wrote with `--csv`.
#[derive(Debug, Parser)]
struct Args {
    /// What the scoreboard wrote
    #[arg(value_name = "IN.csv", requires = "svg")]
    csv: Option<PathBuf>,
    #[arg(value_name = "OUT.svg")]
    svg: Option<PathBuf>,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const INK: RGBColor = RGBColor(34, 38, 46);
const PALE: RGBColor = RGBColor(112, 118, 130);
const GRID: RGBColor = RGBColor(226, 229, 234);
const SIZE: (u32, u32) = (1000, 790);
/// Lines across a panel, in GB/s.
const RATES: [f64; 8] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

/// One panel: the room, and the workload's name around its size.
struct Panel {
    title: &'static str,
    room: &'static str,
    before: &'static str,
    after: &'static str,
}

const PANELS: [Panel; 4] = [
    Panel {
        title: "files in the page cache, each dropped after use",
        room: "open",
        before: "scan ",
        after: ", each dropped",
    },
    Panel {
        title: "files in the page cache, all kept",
        room: "open",
        before: "scan ",
        after: " kept",
    },
    Panel {
        title: "files not in the page cache",
        room: "lease",
        before: "cold scan of ",
        after: "",
    },
    Panel {
        title: "a pipe, read to its end",
        room: "stream",
        before: "pipe of ",
        after: ", written by 64 KiB",
    },
];

/// Contenders that are drawn, under one name in all panels. The last is on top.
const SERIES: [(&str, &[&str], RGBColor, u32); 4] = [
    (
        "memmap2 (unsafe)",
        &["memmap2 map"],
        RGBColor(60, 120, 190),
        2,
    ),
    (
        "read_to_end, pipe widened",
        &["read_to_end, wide pipe"],
        RGBColor(90, 160, 120),
        2,
    ),
    (
        "std: fs::read, read_to_end",
        &["std::fs::read", "read_to_end"],
        RGBColor(140, 146, 158),
        2,
    ),
    (
        "stillmap",
        &["Snapshot::open", "Snapshot::from_fd"],
        RGBColor(214, 62, 84),
        4,
    ),
];

fn main() -> Outcome<()> {
    let args = Args::parse();
    match (args.csv, args.svg) {
        (Some(csv), Some(svg)) => draw(&Board::read(&csv)?, &svg),
        // As `cargo bench` runs it along with the others.
        _ => {
            eprintln!("chart: nothing to draw; give it IN.csv and OUT.svg");
            Ok(())
        }
    }
}

/// What is in the file.
struct Board {
    remarks: Vec<String>,
    rows: Vec<Row>,
}

struct Row {
    room: String,
    workload: String,
    /// Bytes of one item; `None` where time is what counts.
    bytes: Option<f64>,
    contender: String,
    nanos: f64,
}

impl Board {
    fn read(path: &Path) -> Outcome<Board> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let remarks = text.lines().filter_map(|line| line.strip_prefix("# "));
        let mut lines = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(fields);
        let head = lines.next().ok_or("no head in the CSV")?;
        let column = |name: &str| {
            let place = head.iter().position(|field| field == name);
            place.ok_or_else(|| format!("no column {name}"))
        };
        let columns = [
            column("room")?,
            column("workload")?,
            column("item_bytes")?,
            column("contender")?,
            column("median_ns")?,
        ];
        let rows = lines.map(|fields| {
            let [room, workload, bytes, contender, nanos] =
                columns.map(|column| fields.get(column).cloned().unwrap_or_default());
            let nanos = nanos
                .parse()
                .map_err(|_| format!("no time for {workload}"))?;
            Ok(Row {
                room,
                workload,
                bytes: bytes.parse().ok(),
                contender,
                nanos,
            })
        });
        Ok(Board {
            remarks: remarks.map(str::to_owned).collect(),
            rows: rows.collect::<Result<_, String>>()?,
        })
    }

    /// (size in bytes, GB/s) of a contender, smallest first.
    fn points(&self, panel: &Panel, contenders: &[&str]) -> Vec<(f64, f64)> {
        let of_panel = self.rows.iter().filter(|row| {
            row.room == panel.room
                && row.workload.starts_with(panel.before)
                && row.workload.ends_with(panel.after)
                && contenders.contains(&row.contender.as_str())
        });
        let points = of_panel.filter_map(|row| Some((row.bytes?, row.bytes? / row.nanos)));
        let mut points: Vec<_> = points.collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    }
}

/// The fields of a line; those in quotes may hold commas.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().expect("never empty").push(other),
        }
    }
    fields
}

fn draw(board: &Board, path: &Path) -> Outcome<()> {
    let canvas = SVGBackend::new(path, SIZE).into_drawing_area();
    canvas.fill(&WHITE)?;
    let text = |size: i32, colour: &RGBColor| ("sans-serif", size).into_font().color(colour);
    let bold = |size: i32| {
        ("sans-serif", size)
            .into_font()
            .style(FontStyle::Bold)
            .color(&INK)
    };
    let title = "Throughput by size: from the open call to the last byte seen";
    canvas.draw(&Text::new(title, (24, 18), bold(19)))?;
    let what =
        "GB/s, higher is better; medians; both axes are logarithmic; K, M, G are KiB, MiB, GiB";
    canvas.draw(&Text::new(what, (24, 46), text(14, &PALE)))?;

    let all = PANELS
        .iter()
        .flat_map(|panel| SERIES.iter().map(move |line| (panel, line.1)));
    let rates = all
        .flat_map(|(panel, names)| board.points(panel, names))
        .map(|point| point.1);
    let (least, most) = rates.fold((f64::MAX, 0.0_f64), |(least, most), rate| {
        (least.min(rate), most.max(rate))
    });
    if most == 0.0 {
        return Err("no row of the CSV is drawn here".into());
    }
    let rates = least / 1.4..most * 1.4;

    let panels = canvas.margin(112, 60, 8, 16).split_evenly((2, 2));
    for (panel, area) in PANELS.iter().zip(panels) {
        draw_panel(board, panel, &area, rates.clone())?;
    }
    let mut left = 24;
    for (name, _, colour, width) in SERIES.iter().rev() {
        let line = [(left, 86), (left + 28, 86)];
        canvas.draw(&PathElement::new(line, colour.stroke_width(*width)))?;
        canvas.draw(&Text::new(*name, (left + 36, 78), text(15, &INK)))?;
        left += 68 + 8 * name.len() as i32;
    }
    for (number, remark) in board.remarks.iter().enumerate() {
        let place = (24, SIZE.1 as i32 - 44 + 18 * number as i32);
        canvas.draw(&Text::new(remark.as_str(), place, text(12, &PALE)))?;
    }
    canvas.present()?;
    Ok(())
}

fn draw_panel(
    board: &Board,
    panel: &Panel,
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    rates: Range<f64>,
) -> Outcome<()> {
    let line = |(_, names, colour, width)| (board.points(panel, names), colour, width);
    let lines = SERIES.map(line);
    let points = lines.iter().flat_map(|(points, ..)| points);
    let mut sizes: Vec<f64> = points.map(|point| point.0).collect();
    sizes.sort_by(f64::total_cmp);
    sizes.dedup();
    let bold = ("sans-serif", 15).into_font().style(FontStyle::Bold);
    let bold = bold.color(&INK);
    let small = ("sans-serif", 13).into_font().color(&PALE);
    area.draw(&Text::new(panel.title, (48, 0), bold))?;
    let (Some(&first), Some(&last)) = (sizes.first(), sizes.last()) else {
        area.draw(&Text::new("not in this run", (48, 24), small))?;
        return Ok(());
    };
    let mut chart = ChartBuilder::on(&area.margin(20, 14, 0, 0))
        .x_label_area_size(26)
        .y_label_area_size(48)
        .margin_right(28)
        .build_cartesian_2d(
            (first..last * 1.0001).log_scale().base(4.0),
            rates.clone().log_scale(),
        )?;
    let centred = small.clone().pos(Pos::new(HPos::Center, VPos::Top));
    chart
        .configure_mesh()
        .disable_mesh()
        .x_label_formatter(&|_| String::new())
        .y_label_formatter(&|_| String::new())
        .set_all_tick_mark_size(0)
        .axis_style(GRID)
        .draw()?;
    let base = area.get_pixel_range();
    let right = small.clone().pos(Pos::new(HPos::Right, VPos::Center));
    for rate in RATES.into_iter().filter(|rate| rates.contains(rate)) {
        let line = [(first, rate), (last, rate)];
        chart.draw_series([PathElement::new(line, GRID)])?;
        let (x, y) = chart.backend_coord(&(first, rate));
        let place = (x - base.0.start - 10, y - base.1.start);
        area.draw(&Text::new(rate.to_string(), place, right.clone()))?;
    }
    // Labels where there are points, not where the scale would put them.
    let bottom = chart.plotting_area().get_pixel_range().1.end;
    for size in sizes {
        let x = chart.backend_coord(&(size, rates.start)).0;
        let place = (x - base.0.start, bottom - base.1.start + 8);
        area.draw(&Text::new(size_name(size), place, centred.clone()))?;
    }
    for (points, colour, width) in lines {
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(width)))?;
        let dots = points
            .iter()
            .map(|&point| Circle::new(point, width + 1, colour.filled()));
        chart.draw_series(dots)?;
    }
    Ok(())
}

/// `64K`: there is little room.
fn size_name(bytes: f64) -> String {
    let bytes = bytes as u64;
    match bytes.trailing_zeros() {
        30.. => format!("{}G", bytes >> 30),
        20.. => format!("{}M", bytes >> 20),
        10.. => format!("{}K", bytes >> 10),
        _ => bytes.to_string(),
    }
}
