//! Every type in every environment that people run programs in: what it gives, or which error. The table is in
//! docs/platforms.md, and is printed by `cargo test --test environments -- --nocapture`.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod places;
mod types;

use places::{GROUP_BYTES, PLACES, is_in_group};
use support::child::{argument, report, scenario};
use support::control_group::ControlGroup;
use support::{is_root, skip};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/platforms.md");

/// The rows of the table in the docs.
fn documented() -> Vec<String> {
    let docs = std::fs::read_to_string(DOCS).expect("read the docs");
    let (_, rest) = docs.split_once("<!-- environments -->").expect("a mark");
    let (table, _) = rest.split_once("<!-- end -->").expect("its end");
    let rows = table.lines().filter(|line| line.starts_with("| "));
    rows.skip(1).map(str::to_string).collect()
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
    let expected = documented();
    let mut wrong = Vec::new();
    println!("| environment | {} |", types::NAMES.join(" | "));
    for (name, _) in PLACES {
        let group = is_in_group(name).then(|| ControlGroup::with_memory(GROUP_BYTES));
        if matches!(group, Some(None)) {
            continue;
        }
        let group = group.flatten();
        let path = group
            .as_ref()
            .map(ControlGroup::path)
            .unwrap_or("".as_ref());
        child.argument("PLACE", name).argument("GROUP", path);
        let outcome = child.succeed();
        for row in outcome.reports() {
            if !expected.iter().any(|line| line == row) {
                println!("{}", outcome.stdout);
            }
            println!("{row}");
            if !expected.iter().any(|line| line == row) {
                wrong.push(row.to_string());
            }
        }
    }
    assert!(wrong.is_empty(), "not in {DOCS}:\n{}", wrong.join("\n"));
    let is_known = |row: &String| {
        PLACES
            .iter()
            .any(|(name, _)| row.starts_with(&format!("| {name} |")))
    };
    assert!(expected.iter().all(is_known), "{expected:#?}");
    assert_eq!(expected.len(), PLACES.len(), "one row for each environment");
}
