//! Reads the sources and holds them to the rules of ARCHITECTURE.md: the ladder, declared files, confined `unsafe`.
//!
//! Every rule (layout/rules.rs) is a function from a [`Tree`] to complaints, so that layout/fires.rs can try each on small
//! trees that break it.

#[path = "layout/fires.rs"]
mod fires;
#[path = "layout/rules.rs"]
mod rules;
#[path = "layout/rust.rs"]
mod rust;

use rules::*;
use rust::{Tree, paths_used};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// The rungs, lowest first. A module uses only what stands on a lower rung; equals do not see each other.
const LADDER: &[&[&str]] = &[
    &["error", "sys"],
    &["page", "range", "faults", "prefetch"],
    &["region", "block"],
    &["source"],
    &["replica"],
    &["guard", "control"],
    &["anonymous", "shared"],
    &["snapshot", "private", "draft", "exclusive"],
    &["fork"],
];

/// Modules without a rung: nothing but documents.
const DOCUMENTS: &[&str] = &["docs"];

/// Where the lint `unsafe_code` may be relaxed: a file, or a folder (with a slash at the end).
const UNSAFE: &[&str] = &[
    "src/sys/",
    "src/region.rs",
    "src/block.rs",
    "src/replica/",
    "src/guard/",
    "src/anonymous.rs",
    "src/snapshot/mod.rs",
    "src/draft/store.rs",
    "src/private.rs",
    "src/exclusive.rs",
    "src/fork.rs",
    "src/shared/",
];

/// Names that say nothing about what is inside.
const FORBIDDEN_NAMES: &[&str] = &[
    "util", "utils", "common", "helpers", "manager", "misc", "types",
];

#[test]
fn modules_use_only_lower_rungs() {
    let tree = tree();
    assert_none(ladder_complaints(&tree, LADDER));
    // A rule that reads nothing would be green for ever.
    let uses = tree.keys().filter(|path| path.starts_with("src/"));
    let uses: usize = uses.map(|path| paths_used(&tree, path).len()).sum();
    assert!(
        uses > 50,
        "only {uses} paths found in src/: does the parser still see them?"
    );
}

#[test]
fn the_ladder_in_architecture_md_is_this_one() {
    assert_none(drawing_complaints(&read("ARCHITECTURE.md"), LADDER));
}

#[test]
fn what_the_documents_name_is_there() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exists = |path: &str| package.join(path).exists();
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/safety.md",
        "docs/durability.md",
        "docs/memmap2.md",
    ] {
        assert_none(document_complaints(document, &read(document), exists));
    }
}

#[test]
fn every_file_is_declared_and_introduced() {
    let tree = tree();
    assert_none(declaration_complaints(&tree));
    assert_none(introduction_complaints(&tree));
}

#[test]
fn every_test_bench_and_example_is_compiled() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| env!("CARGO").to_string());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: cargo metadata: {error}");
            return;
        }
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let roots = target_roots(
        &String::from_utf8(output.stdout).expect("UTF-8"),
        env!("CARGO_MANIFEST_DIR"),
    );
    assert!(roots.contains("tests/layout.rs"), "{roots:?}");
    assert_none(target_complaints(&tree(), &roots));
    assert_none(harness_complaints(&tree(), &read("Cargo.toml")));
}

#[test]
fn platforms_are_told_apart_in_sys_only() {
    assert_none(platform_complaints(&tree()));
}

#[test]
fn unsafe_is_allowed_in_the_listed_files_only() {
    assert_none(unsafe_complaints(&tree(), UNSAFE));
}

#[test]
fn every_name_says_something() {
    assert_none(name_complaints(&tree()));
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files of the package. A folder with a Cargo.toml is another package.
fn tree() -> Tree {
    fn walk(root: &Path, folder: &str, tree: &mut Tree) {
        let Ok(entries) = fs::read_dir(root.join(folder)) else {
            return;
        };
        for entry in entries {
            let entry = entry.expect("a directory entry");
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("a file type").is_dir() {
                if !entry.path().join("Cargo.toml").exists() {
                    walk(root, &path, tree);
                }
            } else if path.ends_with(".rs") {
                tree.insert(path.clone(), read(&path));
            }
        }
    }
    let mut tree = Tree::new();
    // The singular names too: cargo does not look there, and that is how tests get lost.
    for folder in [
        "src", "tests", "benches", "examples", "test", "bench", "example",
    ] {
        walk(Path::new(env!("CARGO_MANIFEST_DIR")), folder, &mut tree);
    }
    assert!(tree.contains_key("src/lib.rs"), "no src/lib.rs to read");
    tree
}

/// The `src_path` of every target in `cargo metadata`'s JSON, relative to the package.
fn target_roots(json: &str, package: &str) -> BTreeSet<String> {
    json.split("\"src_path\":\"")
        .skip(1)
        .filter_map(|rest| {
            rest.split('"')
                .next()?
                .strip_prefix(package)?
                .strip_prefix('/')
        })
        .map(str::to_string)
        .collect()
}

fn assert_none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}
