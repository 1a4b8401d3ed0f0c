//! The heat map as an SVG picture.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::View;
use crate::terminal::{grouped, heat, page_size, pages, percent, size};

const WIDTH: i32 = 960;
const MARGIN: i32 = 24;
/// Room for the offsets in front of the rows.
const LABEL: i32 = 76;
/// One cell, and the gap below a row.
const CELL: (i32, i32) = (7, 11);
const GAP: i32 = 2;
/// The most rows for a file, if it is the only one and if there are others.
const ROWS: (usize, usize) = (24, 8);
const HEADING: i32 = 54;
const LEGEND: i32 = 46;

const INK: RGBColor = RGBColor(34, 38, 46);
const PALE: RGBColor = RGBColor(120, 126, 138);
/// Not in RAM; lighter than in a terminal, on white paper.
const ABSENT: RGBColor = RGBColor(228, 231, 236);

type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

pub fn draw(path: &Path, views: &[View]) -> Result<(), Box<dyn Error + Send + Sync>> {
    let most = if views.len() == 1 { ROWS.0 } else { ROWS.1 };
    let columns = ((WIDTH - 2 * MARGIN - LABEL) / CELL.0) as usize;
    let rows = |view: &View| view.residency.parts(columns * most).len().div_ceil(columns);
    let height = |view: &View| HEADING + rows(view) as i32 * (CELL.1 + GAP) + MARGIN;
    let all = views.iter().map(height).sum::<i32>() + LEGEND + MARGIN;
    let canvas = SVGBackend::new(path, (WIDTH as u32, all as u32)).into_drawing_area();
    canvas.fill(&WHITE)?;
    let mut top = MARGIN;
    for view in views {
        file(&canvas, view, top, columns, rows(view))?;
        top += height(view);
    }
    legend(&canvas, top)?;
    canvas.present()?;
    Ok(())
}

fn file(
    canvas: &Canvas<'_>,
    view: &View,
    top: i32,
    columns: usize,
    rows: usize,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let residency = &view.residency;
    let (resident, bytes) = (residency.resident_bytes() as u64, view.bytes);
    let name = view.name.rsplit('/').next().unwrap_or(&view.name);
    let sum = match residency.is_known() {
        _ if bytes == 0 => "empty".to_owned(),
        true => format!(
            "{} of {} in RAM: {} of {} of {}",
            percent(resident, bytes),
            size(bytes),
            grouped(residency.resident()),
            pages(residency.pages()),
            page_size(),
        ),
        false => "not told: the file is neither ours nor writable for us".to_owned(),
    };
    let bold = ("sans-serif", 18)
        .into_font()
        .style(FontStyle::Bold)
        .color(&INK);
    canvas.draw(&Text::new(shortened(name), (MARGIN, top), bold))?;
    let small = ("sans-serif", 13).into_font().color(&PALE);
    canvas.draw(&Text::new(sum, (MARGIN, top + 26), small.clone()))?;
    if !residency.is_known() {
        return Ok(());
    }
    let parts: Vec<f64> = residency.parts(columns * rows).collect();
    for (row, cells) in parts.chunks(columns.max(1)).enumerate() {
        let y = top + HEADING + row as i32 * (CELL.1 + GAP);
        let offset = bytes as u128 * (row * columns) as u128 / parts.len() as u128;
        let right = plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Right,
            plotters::style::text_anchor::VPos::Center,
        );
        let label = ("sans-serif", 11).into_font().color(&PALE).pos(right);
        let middle = (MARGIN + LABEL - 10, y + CELL.1 / 2);
        canvas.draw(&Text::new(size(offset as u64), middle, label))?;
        // Equal neighbours in one piece.
        let mut start = 0;
        while start < cells.len() {
            let colour = colour(cells[start]);
            let same = cells[start..]
                .iter()
                .take_while(|&&cell| self::colour(cell) == colour);
            let end = start + same.count();
            let x = |column: usize| MARGIN + LABEL + column as i32 * CELL.0;
            let area = [(x(start), y), (x(end), y + CELL.1)];
            canvas.draw(&Rectangle::new(area, colour.filled()))?;
            start = end;
        }
    }
    Ok(())
}

/// With its middle left out, if it is too long for the picture.
fn shortened(name: &str) -> String {
    const MOST: usize = 84;
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= MOST {
        return name.to_owned();
    }
    let (head, tail) = (&letters[..MOST / 2], &letters[letters.len() - MOST / 2..]);
    head.iter().chain(&['…']).chain(tail).collect()
}

fn legend(canvas: &Canvas<'_>, top: i32) -> Result<(), Box<dyn Error + Send + Sync>> {
    let small = ("sans-serif", 12).into_font().color(&PALE);
    let x = MARGIN + LABEL;
    canvas.draw(&Text::new("nothing", (x, top + 2), small.clone()))?;
    let start = x + 56;
    for step in 0..=16 {
        let left = start + step * 12;
        let area = [(left, top), (left + 12, top + 14)];
        let share = f64::from(step) / 16.0;
        canvas.draw(&Rectangle::new(area, colour(share).filled()))?;
    }
    let end = (start + 17 * 12 + 10, top + 2);
    canvas.draw(&Text::new("all in RAM", end, small))?;
    Ok(())
}

/// In a few shades, so that neighbours are equal more often.
fn colour(share: f64) -> RGBColor {
    match share {
        share if share <= 0.0 => ABSENT,
        share => {
            let (red, green, blue) = heat((share * 32.0).ceil() / 32.0);
            RGBColor(red, green, blue)
        }
    }
}
