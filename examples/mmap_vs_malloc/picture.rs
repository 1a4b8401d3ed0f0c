//! A chart of what the first touch of memory costs.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use plotters::coord::ranged1d::{KeyPointHint, Ranged};
use plotters::prelude::*;

use crate::kernel;
use crate::touch::{How, first_touch};

const INK: RGBColor = RGBColor(34, 38, 46);
const PALE: RGBColor = RGBColor(120, 126, 138);
const GRID: RGBColor = RGBColor(226, 229, 234);

/// Sizes are powers of two: 1 MiB to 256 MiB.
const EXPONENTS: std::ops::RangeInclusive<i32> = 20..=28;

const SERIES: [(How, &str, RGBColor); 5] = [
    (
        How::MallocAgain,
        "malloc, after a free",
        RGBColor(150, 156, 168),
    ),
    (How::Malloc, "malloc, fresh", RGBColor(70, 130, 90)),
    (How::SmallPages, "mmap, small pages", RGBColor(72, 40, 160)),
    (How::HugePages, "mmap, huge pages", RGBColor(205, 60, 100)),
    (
        How::Populated,
        "huge pages, populated first",
        RGBColor(240, 150, 40),
    ),
];

pub fn draw(path: &Path) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut lines = Vec::new();
    for (how, name, colour) in SERIES {
        let mut points = Vec::new();
        for exponent in EXPONENTS {
            points.push((f64::from(exponent), nanos_per_page(how, 1 << exponent)?));
        }
        lines.push((name, colour, points));
    }
    let values = || {
        lines
            .iter()
            .flat_map(|(_, _, points)| points.iter().map(|point| point.1))
    };
    let least = values().fold(f64::MAX, f64::min) / 1.6;
    let most = values().fold(0.0, f64::max) * 1.6;

    let canvas = SVGBackend::new(path, (960, 540)).into_drawing_area();
    canvas.fill(&WHITE)?;
    let bold = ("sans-serif", 19)
        .into_font()
        .style(FontStyle::Bold)
        .color(&INK);
    let small = |size: i32| ("sans-serif", size).into_font().color(&PALE);
    let title = "What the first touch of memory costs";
    canvas.draw(&Text::new(title, (24, 20), bold))?;
    let what = "nanoseconds for each page of 4 KiB, getting the memory included; lower is better";
    canvas.draw(&Text::new(what, (24, 48), small(13)))?;
    canvas.draw(&Text::new(kernel::machine(), (24, 514), small(11)))?;

    let area = canvas.margin(72, 40, 16, 190);
    let mut chart = ChartBuilder::on(&area)
        .x_label_area_size(28)
        .y_label_area_size(56)
        .build_cartesian_2d(Doublings(EXPONENTS), (least..most).log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .x_labels(EXPONENTS.count())
        .x_label_formatter(&|exponent| kernel::size(1 << *exponent as u32))
        .y_label_formatter(&|nanos| nanos_label(*nanos))
        .label_style(small(12))
        .draw()?;
    // Names at the ends of their lines, kept apart.
    let mut ends: Vec<(f64, usize)> = Vec::new();
    for (index, (_, colour, points)) in lines.iter().enumerate() {
        chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(3)))?;
        let dots = points
            .iter()
            .map(|&point| Circle::new(point, 4, colour.filled()));
        chart.draw_series(dots)?;
        if let Some(last) = points.last() {
            ends.push((last.1, index));
        }
    }
    ends.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut free = 0;
    for (value, index) in ends {
        let (name, colour, _) = &lines[index];
        let (x, y) = chart.backend_coord(&(f64::from(*EXPONENTS.end()), value));
        let y = (y - 8).max(free);
        free = y + 18;
        let style = ("sans-serif", 14).into_font().color(colour);
        canvas.draw(&Text::new(*name, (x + 12, y), style))?;
    }
    canvas.present()?;
    Ok(())
}

/// The fastest of some.
fn nanos_per_page(how: How, len: usize) -> stillmap::Result<f64> {
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        fastest = fastest.min(first_touch(how, len)?.time);
    }
    Ok(fastest.as_nanos() as f64 / (len as f64 / 4096.0))
}

fn nanos_label(nanos: f64) -> String {
    match nanos {
        nanos if nanos >= 1000.0 => format!("{:.0} µs", nanos / 1000.0),
        nanos => format!("{nanos:.0} ns"),
    }
}

/// An axis of powers of two, with a label at each.
struct Doublings(std::ops::RangeInclusive<i32>);

impl Ranged for Doublings {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (first, last) = (f64::from(*self.0.start()), f64::from(*self.0.end()));
        limit.0 + ((value - first) / (last - first) * f64::from(limit.1 - limit.0)) as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.0.clone().map(f64::from).collect()
    }

    fn range(&self) -> std::ops::Range<f64> {
        f64::from(*self.0.start())..f64::from(*self.0.end())
    }
}

impl plotters::coord::ranged1d::ValueFormatter<f64> for Doublings {}
