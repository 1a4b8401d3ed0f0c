//! Every type in every environment that people run programs in: what it gives, or which error. The table is in
//! docs/platforms.md, and is printed by `cargo test --test environments -- --nocapture`.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod hardships;
mod places;
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
mod refused;
mod rows;
mod types;

use places::{GROUP_BYTES, PLACES, is_in_group};
use support::child::{Scenario, argument, report, scenario};
use support::control_group::ControlGroup;
use support::{is_root, skip};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/platforms.md");

/// The table in the docs: its header, and its rows.
fn documented() -> (String, Vec<String>) {
    let docs = std::fs::read_to_string(DOCS).expect("read the docs");
    let (_, rest) = docs.split_once("<!-- environments -->").expect("a mark");
    let (table, _) = rest.split_once("<!-- end -->").expect("its end");
    let mut lines = table.lines().filter(|line| line.starts_with("| "));
    let header = lines.next().expect("a header").to_string();
    (header, lines.map(str::to_string).collect())
}

#[test]
fn each_type_in_each_environment() {
    let mut child = scenario!(|| {
        let name = argument("PLACE").into_string().unwrap();
        let (_, make) = PLACES.iter().find(|(known, _)| *known == name).unwrap();
        let Some(place) = make() else {
            return;
        };
        report(format_args!(
            "| {name} | {} |",
            types::all(&place).join(" | ")
        ));
    });
    if !is_root() {
        skip("the environments take root");
        return;
    }
    let (header, expected) = documented();
    assert_eq!(
        header,
        format!("| environment | {} |", types::NAMES.join(" | "))
    );
    assert_eq!(expected.len(), PLACES.len(), "one row for each environment");
    let mut wrong = Vec::new();
    println!("{header}");
    for ((name, _), documented) in PLACES.iter().zip(&expected) {
        let Some(row) = row(&mut child, name) else {
            skip(format_args!("this row is not compared: {documented}"));
            assert!(
                documented.starts_with(&format!("| {name} |")),
                "{documented}"
            );
            continue;
        };
        println!("{row}");
        if row != *documented {
            wrong.push(format!("is    {row}\nnot   {documented}"));
        }
    }
    assert!(wrong.is_empty(), "not as in {DOCS}:\n{}", wrong.join("\n"));
}

/// The row of an environment, unless that cannot be made here.
fn row(child: &mut Scenario, name: &str) -> Option<String> {
    let group = if is_in_group(name) {
        Some(ControlGroup::with_memory(GROUP_BYTES)?)
    } else {
        None
    };
    let path = group.as_ref().map_or("".as_ref(), ControlGroup::path);
    child.argument("PLACE", name).argument("GROUP", path);
    let outcome = child.succeed();
    let reports = outcome.reports();
    assert!(reports.len() <= 1, "{reports:?}");
    reports.first().map(|row| row.to_string())
}
