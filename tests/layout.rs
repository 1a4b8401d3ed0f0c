//! Reads the sources and holds them to the rules of ARCHITECTURE.md: the ladder, declared files, confined `unsafe`.
//!
//! Every rule is a function from a [`Tree`] to complaints, so the tests below try each on small trees that break it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The rungs, lowest first. A module uses only what stands on a lower rung; equals do not see each other.
const LADDER: &[&[&str]] = &[
    &["error", "sys"],
    &["page", "faults"],
    &["region", "block"],
    &["source"],
    &["replica"],
    &["guard", "control"],
    &["anonymous", "shared"],
    &["snapshot", "private", "draft", "exclusive"],
    &["fork"],
];

/// Modules that have their rung already and may still be missing.
const PLANNED: &[&str] = &[
    "faults",
    "control",
    "shared",
    "private",
    "draft",
    "exclusive",
    "fork",
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
];

/// Names that say nothing about what is inside.
const FORBIDDEN_NAMES: &[&str] = &[
    "util", "utils", "common", "helpers", "manager", "misc", "types",
];

// ---- the rules, on the real tree ----------------------------------------------------------------------------

#[test]
fn modules_use_only_lower_rungs() {
    let tree = tree();
    assert_none(ladder_complaints(&tree, LADDER, PLANNED));
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
    let modules = top_modules(&tree());
    let exists = |path: &str| {
        // What is planned may still be missing, until its module is there.
        let planned = |name: &&str| PLANNED.contains(name) && !modules.contains(*name);
        package.join(path).exists() || path.split(['/', '.']).any(|name| planned(&name))
    };
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/safety.md",
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
        .output()
        .expect("cargo metadata");
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

// ---- the rules ----------------------------------------------------------------------------------------------

/// Path below the package, with `/`, and text.
type Tree = BTreeMap<String, String>;

/// `use crate::x`, grouped uses, inline `crate::x::y`, and `super::` that climbs out of the module.
fn ladder_complaints(tree: &Tree, ladder: &[&[&str]], planned: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    let modules = top_modules(tree);
    let rung = |module: &str| ladder.iter().position(|rung| rung.contains(&module));
    for module in &modules {
        if rung(module).is_none() && !DOCUMENTS.contains(&module.as_str()) {
            complaints.push(format!("module `{module}` stands on no rung of LADDER"));
        }
    }
    for module in ladder.iter().flat_map(|rung| rung.iter()) {
        if !modules.contains(*module) && !planned.contains(module) {
            complaints.push(format!(
                "LADDER names `{module}`, but src/lib.rs does not declare it"
            ));
        }
    }
    let exports = exports(tree);
    for path in tree.keys().filter(|path| path.starts_with("src/")) {
        let here = module_of(path);
        let Some(from) = here.first() else { continue }; // lib.rs may use everything
        for (line, segments) in paths_used(tree, path) {
            let Some(first) = segments.first() else {
                continue;
            };
            let to = if modules.contains(first) {
                first
            } else if let Some(to) = exports.get(first) {
                to
            } else {
                complaints.push(format!("{path}:{line}: `crate::{first}` is neither a module nor exported by name from src/lib.rs"));
                continue;
            };
            if to == from {
                continue;
            }
            match (rung(from), rung(to)) {
                (Some(above), Some(below)) if below < above => {}
                (Some(_), Some(_)) => complaints.push(format!(
                    "{path}:{line}: `{from}` uses `{to}`, which does not stand below it"
                )),
                _ => complaints.push(format!(
                    "{path}:{line}: `{from}` uses `{to}`, and not both have a rung"
                )),
            }
        }
        for token in &tokens(&tree[path]) {
            if matches!(token.word(), Some("macro_use")) {
                complaints.push(format!(
                    "{path}:{}: `macro_use` hides who uses whom",
                    token.line
                ));
            }
        }
    }
    complaints
}

/// The drawing is the first block of ARCHITECTURE.md whose lines start with a rung's number.
fn drawing_complaints(text: &str, ladder: &[&[&str]]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, modules) in ladder.iter().enumerate() {
        let row = text.lines().find(|line| {
            line.starts_with(' ') && line.split_whitespace().next() == Some(&number.to_string())
        });
        let words: BTreeSet<&str> = row
            .unwrap_or("")
            .split(|c: char| !c.is_alphanumeric())
            .collect();
        for module in modules.iter().filter(|module| !words.contains(*module)) {
            complaints.push(format!(
                "ARCHITECTURE.md draws no `{module}` on rung {number}"
            ));
        }
    }
    complaints
}

/// A document names only files and folders that exist, wherever it puts a path between backquotes.
fn document_complaints(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
    let folders = ["src/", "tests/", "benches/", "examples/", "docs/", ".ci/"];
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter(|path| folders.iter().any(|folder| path.starts_with(folder)))
        .filter(|path| {
            path.chars()
                .all(|c| c.is_alphanumeric() || "/._-".contains(c))
        })
        .filter(|path| !exists(path))
        .map(|path| format!("{name}: `{path}` does not exist"))
        .collect()
}

/// Every file under src/ is reached from lib.rs by `mod`.
fn declaration_complaints(tree: &Tree) -> Vec<String> {
    let (reached, mut complaints) = reachable(tree, "src/lib.rs");
    for path in tree.keys().filter(|path| path.starts_with("src/")) {
        if !reached.contains(path) {
            complaints.push(format!(
                "{path}: no `mod` declares it, so nobody compiles it"
            ));
        }
    }
    complaints
}

/// Every file begins by saying what it is for.
fn introduction_complaints(tree: &Tree) -> Vec<String> {
    tree.iter()
        .filter(|(_, text)| {
            !text
                .strip_prefix("//!")
                .is_some_and(|rest| rest.starts_with(' '))
        })
        .map(|(path, _)| format!("{path}: does not start with `//!` and what it is for"))
        .collect()
}

/// Every file of tests/, benches/ and examples/ is a target of cargo or reached from one by `mod`.
fn target_complaints(tree: &Tree, roots: &BTreeSet<String>) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut reached = BTreeSet::new();
    for root in roots.iter().filter(|root| tree.contains_key(*root)) {
        let (more, wrong) = reachable(tree, root);
        reached.extend(more);
        complaints.extend(wrong);
    }
    for path in tree
        .keys()
        .filter(|path| path.contains('/') && !path.starts_with("src/"))
    {
        if !reached.contains(path) {
            complaints.push(format!(
                "{path}: neither a target of cargo nor declared in one, so nobody compiles it"
            ));
        }
    }
    complaints
}

/// A benchmark with a `main` of its own needs `harness = false`, or cargo runs another `main`.
fn harness_complaints(tree: &Tree, manifest: &str) -> Vec<String> {
    let sections: Vec<&str> = manifest.split("[[bench]]").skip(1).collect();
    let mut complaints = Vec::new();
    for path in tree.keys() {
        let Some(name) = path
            .strip_prefix("benches/")
            .and_then(|rest| rest.strip_suffix(".rs"))
        else {
            continue;
        };
        let name = name.trim_end_matches("/main");
        let named = format!("name = \"{name}\"");
        let section = sections
            .iter()
            .map(|text| text.split("\n[").next().unwrap_or(""))
            .find(|text| text.contains(&named));
        if !name.contains('/')
            && !section.is_some_and(|section| section.contains("harness = false"))
        {
            complaints.push(format!(
                "{path}: Cargo.toml has no [[bench]] with harness = false for it"
            ));
        }
    }
    complaints
}

/// `cfg`, `cfg!` and `cfg_attr` may ask about the platform below sys/ only.
fn platform_complaints(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for (path, text) in tree
        .iter()
        .filter(|(path, _)| path.starts_with("src/") && !path.starts_with("src/sys/"))
    {
        let tokens = tokens(text);
        for (i, token) in tokens.iter().enumerate() {
            if !matches!(token.word(), Some("cfg" | "cfg_attr")) {
                continue;
            }
            let open = if tokens.get(i + 1).is_some_and(|next| next.is('!')) {
                i + 2
            } else {
                i + 1
            };
            if !tokens.get(open).is_some_and(|next| next.is('(')) {
                continue;
            }
            let mut depth = 0;
            for inner in &tokens[open..] {
                if inner.is('(') {
                    depth += 1;
                } else if inner.is(')') {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                } else if let Some(
                    word @ ("target_os" | "target_family" | "target_env" | "unix" | "windows"),
                ) = inner.word()
                {
                    complaints.push(format!("{path}:{}: `{word}` outside sys/", inner.line));
                }
            }
        }
    }
    complaints
}

/// `unsafe_code` is denied by lib.rs and allowed in exactly the listed places, with a reason.
fn unsafe_complaints(tree: &Tree, listed: &[&str]) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut denied = false;
    let mut relaxed = BTreeSet::new();
    for (path, text) in tree.iter().filter(|(path, _)| path.starts_with("src/")) {
        let lines: Vec<&str> = text.lines().collect();
        let tokens = tokens(text);
        for (i, token) in tokens.iter().enumerate() {
            if token.word() != Some("unsafe_code") {
                continue;
            }
            // The attribute that it stands in: `# ! [ level ( ..., unsafe_code, ... ) ]`.
            let start = tokens[..i].iter().rposition(|t| t.is('#')).unwrap_or(i);
            let whole_file = tokens[start + 1].is('!');
            let level = tokens[start..i].iter().filter_map(Token::word).next();
            if matches!(level, Some("deny" | "forbid")) {
                denied |= path == "src/lib.rs" && whole_file;
                continue;
            }
            let place = listed
                .iter()
                .find(|place| *path == **place || place.ends_with('/') && path.starts_with(*place));
            match place {
                Some(place) => _ = relaxed.insert(*place),
                None => complaints.push(format!(
                    "{path}:{}: relaxes `unsafe_code`, and UNSAFE does not list it",
                    token.line
                )),
            }
            let nearby = &lines[token.line.saturating_sub(12)..lines.len().min(token.line + 12)];
            if !whole_file
                && !nearby
                    .iter()
                    .any(|line| line.contains("// SAFETY:") || line.contains("# Safety"))
            {
                complaints.push(format!(
                    "{path}:{}: relaxes `unsafe_code` without a SAFETY comment near it",
                    token.line
                ));
            }
        }
    }
    if !denied {
        complaints.push("src/lib.rs does not deny `unsafe_code`".to_string());
    }
    for place in listed.iter().filter(|place| !relaxed.contains(**place)) {
        complaints.push(format!(
            "UNSAFE lists {place}, which does not relax `unsafe_code`"
        ));
    }
    complaints
}

/// No file or folder is called `util` or the like.
fn name_complaints(tree: &Tree) -> Vec<String> {
    let mut complaints = Vec::new();
    for path in tree.keys() {
        for part in path.trim_end_matches(".rs").split('/') {
            if FORBIDDEN_NAMES.contains(&part) {
                complaints.push(format!("{path}: `{part}` says nothing"));
            }
        }
    }
    complaints
}

// ---- reading ------------------------------------------------------------------------------------------------

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

// ---- just enough of Rust ------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Word(String),
    Text(String),
    Sign(char),
}

#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    line: usize,
}

impl Token {
    fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    fn is(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }
}

/// Words, string literals and signs; comments, lifetimes and characters are left out.
fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        let kind = match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
                None
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => {
                            depth += 1;
                            i += 2;
                        }
                        ('*', '/') => {
                            depth -= 1;
                            i += 2;
                        }
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
                None
            }
            '"' => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                let inside = &chars[start + 1..(i - 1).min(chars.len())];
                Some(Kind::Text(inside.iter().collect()))
            }
            '\'' => {
                // A character ('x', '\n', '\u{1}') ends with a quote; a lifetime does not.
                if at(i + 1) == '\\' {
                    i += 3;
                    while i < chars.len() && at(i) != '\'' {
                        i += 1;
                    }
                    i += 1;
                } else if at(i + 2) == '\'' {
                    i += 3;
                } else {
                    i += 1;
                    while at(i).is_alphanumeric() || at(i) == '_' {
                        i += 1;
                    }
                }
                None
            }
            c if c.is_alphanumeric() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                let word: String = chars[start..i].iter().collect();
                let hashes = (0..).take_while(|n| at(i + n) == '#').count();
                if matches!(word.as_str(), "r" | "br" | "cr") && at(i + hashes) == '"' {
                    // A raw string: up to a quote and as many hashes.
                    i += hashes + 1;
                    let from = i;
                    let ends = |i: usize| at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#');
                    while i < chars.len() && !ends(i) {
                        i += 1;
                    }
                    let inside = chars[from..i.min(chars.len())].iter().collect();
                    i += 1 + hashes;
                    Some(Kind::Text(inside))
                } else if matches!(word.as_str(), "b" | "c") && matches!(at(i), '"' | '\'') {
                    None // the literal follows
                } else if word == "r" && at(i) == '#' {
                    i += 1; // r#name
                    None
                } else {
                    Some(Kind::Word(word))
                }
            }
            c => {
                i += 1;
                (!c.is_whitespace()).then_some(Kind::Sign(c))
            }
        };
        if let Some(kind) = kind {
            tokens.push(Token { kind, line });
        }
        line += chars[start..i.min(chars.len())]
            .iter()
            .filter(|&&c| c == '\n')
            .count();
    }
    tokens
}

/// `src/a/b.rs` and `src/a/b/mod.rs` are `[a, b]`; `src/lib.rs` is `[]`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(str::to_string).collect();
    if matches!(
        parts.last().map(String::as_str),
        Some("mod" | "lib" | "main")
    ) {
        parts.pop();
    }
    parts
}

fn top_modules(tree: &Tree) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    let mut inline = Vec::new();
    each_token(&tokens(&tree["src/lib.rs"]), &mut inline, |i, all, _| {
        let name = all.get(i + 1).and_then(Token::word);
        if let (Some("mod"), Some(name)) = (all[i].word(), name) {
            modules.insert(name.to_string());
        }
    });
    modules
}

/// What lib.rs exports by name (`pub use room::Name`, exported macros): the name and its room.
fn exports(tree: &Tree) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    let lib = tokens(&tree["src/lib.rs"]);
    for i in 0..lib.len() {
        if lib[i].word() == Some("use") {
            let mut found = Vec::new();
            use_tree(&lib, i + 1, &[], &mut found);
            for (_, path) in found {
                let path: Vec<_> = path
                    .iter()
                    .filter(|s| *s != "crate" && *s != "self")
                    .collect();
                if let (Some(room), Some(name), true) = (path.first(), path.last(), path.len() > 1)
                {
                    exports.insert(name.to_string(), room.to_string());
                }
            }
        }
    }
    for (path, text) in tree.iter().filter(|(path, _)| path.starts_with("src/")) {
        let all = tokens(text);
        for i in 0..all.len() {
            // `#[macro_export] ... macro_rules! name`: it lives at the root, wherever it is written.
            if all[i].word() != Some("macro_export") {
                continue;
            }
            let Some(at) = (i..all.len()).find(|&at| all[at].word() == Some("macro_rules")) else {
                continue;
            };
            let name = all.get(at + 2).and_then(Token::word);
            if let (Some(name), Some(room)) = (name, module_of(path).first()) {
                exports.insert(name.to_string(), room.clone());
            }
        }
    }
    exports
}

/// Calls `f` for every token, with the inline modules that it stands in.
fn each_token<'t>(
    all: &'t [Token],
    inline: &mut Vec<String>,
    mut f: impl FnMut(usize, &'t [Token], &[String]),
) {
    let mut depth = 0;
    let mut opened = Vec::new();
    for (i, token) in all.iter().enumerate() {
        f(i, all, inline);
        if token.is('{') {
            let before = |n| i.checked_sub(n).and_then(|at: usize| all[at].word());
            if let (Some("mod"), Some(name)) = (before(2), before(1)) {
                inline.push(name.to_string());
                opened.push(depth);
            }
            depth += 1;
        } else if token.is('}') {
            depth -= 1;
            if opened.last() == Some(&depth) {
                opened.pop();
                inline.pop();
            }
        }
    }
}

/// Every path in a file that starts at the crate's root or climbs, as (line, segments below the root).
/// A path that names the root itself gives `*`, which is the name of no module.
fn paths_used(tree: &Tree, path: &str) -> Vec<(usize, Vec<String>)> {
    let all = tokens(&tree[path]);
    let module = module_of(path);
    let mut used = Vec::new();
    let mut inline = Vec::new();
    each_token(&all, &mut inline, |i, all, inline| {
        let here: Vec<String> = module.iter().chain(inline).cloned().collect();
        let starts = i == 0 || !(all[i - 1].is(':') && i > 1 && all[i - 2].is(':'));
        let base = match all[i].word() {
            // `folio::` inside folio: by `extern crate self as folio`.
            Some("crate" | "folio") if starts => Vec::new(),
            Some("self") if starts && followed_by_path(all, i) => here,
            Some("super") if starts => here[..here.len().saturating_sub(1)].to_vec(),
            _ => return,
        };
        let mut found = Vec::new();
        if followed_by_path(all, i) {
            use_tree(all, i + 3, &base, &mut found);
        } else if all.get(i + 1).and_then(Token::word) == Some("as") {
            found.push((all[i].line, base));
        }
        for (line, mut segments) in found {
            if segments.is_empty() {
                segments.push("*".to_string());
            }
            used.push((line, segments));
        }
    });
    used
}

fn followed_by_path(all: &[Token], i: usize) -> bool {
    let sign = |n: usize, sign| all.get(i + n).is_some_and(|t| t.is(sign));
    sign(1, ':') && sign(2, ':')
}

/// Reads a path or a use tree from token `i` on; returns the token behind it.
fn use_tree(
    all: &[Token],
    mut i: usize,
    base: &[String],
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let mut path = base.to_vec();
    let line = all.get(i).map_or(0, |t| t.line);
    while let Some(token) = all.get(i) {
        if token.is('{') {
            i += 1;
            while all.get(i).is_some_and(|t| !t.is('}')) {
                let next = use_tree(all, i, &path, found);
                i = next.max(i + 1);
                while all.get(i).is_some_and(|t| t.is(',')) {
                    i += 1;
                }
            }
            return i + 1;
        }
        if token.is('*') {
            // A glob of the root has no segment; any other names its module already.
            found.push((line, path));
            return i + 1;
        }
        match token.word() {
            Some("super") => _ = path.pop(),
            Some("self" | "crate") => {}
            Some(word) => path.push(word.to_string()),
            None => break,
        }
        if !followed_by_path(all, i) {
            i += 1;
            break;
        }
        i += 3;
    }
    found.push((line, path));
    // `as name`
    if all.get(i).and_then(Token::word) == Some("as") {
        i += 2;
    }
    i
}

/// The files that `root` reaches by `mod name;`, itself among them, and the declarations that lead nowhere.
fn reachable(tree: &Tree, root: &str) -> (BTreeSet<String>, Vec<String>) {
    let mut reached = BTreeSet::new();
    let mut complaints = Vec::new();
    let mut todo = vec![root.to_string()];
    while let Some(path) = todo.pop() {
        if !reached.insert(path.clone()) {
            continue;
        }
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", &path));
        let owns_folder = path == root || file == "mod.rs";
        let own = if owns_folder {
            folder.to_string()
        } else {
            path.trim_end_matches(".rs").to_string()
        };
        let all = tokens(&tree[&path]);
        let mut inline = Vec::new();
        each_token(&all, &mut inline, |i, all, inline| {
            let name = all.get(i + 1).and_then(Token::word);
            let (Some("mod"), Some(name), true) = (
                all[i].word(),
                name,
                all.get(i + 2).is_some_and(|t| t.is(';')),
            ) else {
                return;
            };
            let within = [std::slice::from_ref(&own), inline].concat().join("/");
            let candidates = match path_attribute(all, i) {
                Some(at) => vec![normal(&format!("{folder}/{at}"))],
                None => vec![
                    format!("{within}/{name}.rs"),
                    format!("{within}/{name}/mod.rs"),
                ],
            };
            match candidates.iter().find(|path| tree.contains_key(*path)) {
                Some(path) => todo.push(path.clone()),
                None => complaints.push(format!(
                    "{path}:{}: `mod {name}` leads to no file",
                    all[i].line
                )),
            }
        });
    }
    (reached, complaints)
}

/// The text of a `#[path = "..."]` among the attributes right before the `mod` at token `i`.
fn path_attribute(all: &[Token], i: usize) -> Option<String> {
    let item = all[..i]
        .iter()
        .rposition(|t| t.is(';') || t.is('{') || t.is('}'));
    let before = &all[item.map_or(0, |at| at + 1)..i];
    let at = before.iter().position(|t| t.word() == Some("path"))?;
    match &before.get(at + 2)?.kind {
        Kind::Text(text) => Some(text.clone()),
        _ => None,
    }
}

/// `a/../b` is `b`.
fn normal(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/').filter(|part| *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

// ---- each rule fires ----------------------------------------------------------------------------------------

/// A tree of the given files; each gets its `//!` line.
fn small(files: &[(&str, &str)]) -> Tree {
    files
        .iter()
        .map(|(path, text)| (path.to_string(), format!("//! For the test.\n{text}")))
        .collect()
}

/// Ladder complaints for three rooms on two rungs, with `text` as one of them.
fn ladder_of_three(path: &str, text: &str) -> Vec<String> {
    let mut tree = small(&[
        (
            "src/lib.rs",
            "mod low; mod left; mod right; pub use right::{Name, deep::Other};",
        ),
        ("src/low.rs", ""),
        ("src/left.rs", ""),
        ("src/right/mod.rs", "mod part;"),
        ("src/right/part.rs", ""),
    ]);
    tree.insert(path.to_string(), text.to_string());
    ladder_complaints(&tree, &[&["low"], &["left", "right"]], &[])
}

#[track_caller]
fn one(complaints: Vec<String>, words: &str) {
    assert!(
        complaints.len() == 1 && complaints[0].contains(words),
        "{complaints:?} should be one about {words}"
    );
}

#[test]
fn a_use_of_a_lower_rung_is_fine() {
    for text in [
        "use crate::low::X;",
        "use super::low;",
        "fn f() { crate::low::g() }",
        "use self::inner::X; mod inner { use crate::low; }",
        "// crate::right\n/* crate::right /* nested */ crate::right */ /// [`crate::right`]\nfn f<'a>(x: &'a str) -> char { '\"' }",
        "const TEXT: &str = \"crate::right\"; const RAW: &str = r#\"\" crate::right\"#; const B: &[u8] = b\"crate::right\";",
        "pub(crate) fn f() {} pub(in crate::left) fn g() {} pub(super) fn h() {}",
        "#[cfg(test)] mod tests { use super::*; }",
    ] {
        assert_none(ladder_of_three("src/left.rs", text));
    }
    assert_none(ladder_of_three(
        "src/right/part.rs",
        "use super::Thing; use super::super::low; use crate::right::x;",
    ));
}

#[test]
fn an_upward_use_is_seen() {
    one(
        ladder_of_three("src/low.rs", "use crate::left::X;"),
        "`low` uses `left`",
    );
    one(
        ladder_of_three("src/low.rs", "pub(crate) use crate::left as other;"),
        "`low` uses `left`",
    );
    one(
        ladder_of_three("src/low.rs", "fn f() { let x = crate :: left :: X; }"),
        "`low` uses `left`",
    );
    one(
        ladder_of_three("src/low.rs", "use super::left::X;"),
        "`low` uses `left`",
    );
    one(
        ladder_of_three("src/low.rs", "use super::{left::X};"),
        "`low` uses `left`",
    );
    one(
        ladder_of_three("src/low.rs", "fn f() -> folio::left::X {}"),
        "`low` uses `left`",
    );
    one(
        ladder_of_three(
            "src/low.rs",
            "macro_rules! m { () => { $crate::left::x() } }",
        ),
        "`low` uses `left`",
    );
}

#[test]
fn a_use_on_the_same_rung_is_seen() {
    one(
        ladder_of_three("src/left.rs", "use crate::right::X;"),
        "`left` uses `right`",
    );
    one(
        ladder_of_three("src/right/part.rs", "use super::super::left;"),
        "`right` uses `left`",
    );
    one(
        ladder_of_three(
            "src/right/part.rs",
            "mod deep { fn f() { super::super::super::left::g() } }",
        ),
        "`right` uses `left`",
    );
    one(
        ladder_of_three("src/left.rs", "use self::super::right::X;"),
        "`left` uses `right`",
    );
}

#[test]
fn a_use_inside_a_group_is_seen() {
    one(
        ladder_of_three(
            "src/left.rs",
            "use crate::{low::{self, X}, right::{Y, Z as W}};",
        )
        .split_off(1),
        "`left` uses `right`",
    );
    one(
        ladder_of_three("src/left.rs", "use {std::fmt, crate::right};"),
        "`left` uses `right`",
    );
    one(
        ladder_of_three("src/low.rs", "use crate::{\n    left,\n};"),
        "src/low.rs:2",
    );
}

#[test]
fn a_use_in_a_test_module_is_seen() {
    one(
        ladder_of_three(
            "src/low.rs",
            "#[cfg(test)] mod tests { use crate::left::X; }",
        ),
        "`low` uses `left`",
    );
    one(
        ladder_of_three(
            "src/low.rs",
            "#[cfg(test)] mod tests { fn f() { super::super::left::g() } }",
        ),
        "`low` uses `left`",
    );
}

#[test]
fn a_use_by_an_exported_name_is_seen() {
    one(
        ladder_of_three("src/left.rs", "use crate::Name;"),
        "`left` uses `right`",
    );
    one(
        ladder_of_three("src/left.rs", "use super::Other;"),
        "`left` uses `right`",
    );
    one(
        ladder_of_three("src/left.rs", "use crate::Nobody;"),
        "`crate::Nobody` is neither",
    );
}

#[test]
fn a_use_of_the_whole_root_is_seen() {
    one(
        ladder_of_three("src/left.rs", "use crate::*;"),
        "`crate::*`",
    );
    one(
        ladder_of_three("src/left.rs", "use super::*;"),
        "`crate::*`",
    );
    one(
        ladder_of_three("src/left.rs", "use crate as root;"),
        "`crate::*`",
    );
    one(
        ladder_of_three("src/left.rs", "use crate::{self as root};"),
        "`crate::*`",
    );
    one(
        ladder_of_three("src/left.rs", "#[macro_use] mod m {}"),
        "macro_use",
    );
}

#[test]
fn a_missing_rung_is_seen() {
    let tree = small(&[
        ("src/lib.rs", "mod low; mod docs; mod lost;"),
        ("src/low.rs", ""),
    ]);
    one(
        ladder_complaints(&tree, &[&["low"]], &[]),
        "`lost` stands on no rung",
    );
    one(
        ladder_complaints(&tree, &[&["low", "lost", "gone"]], &[]),
        "`gone`",
    );
    assert_none(ladder_complaints(
        &tree,
        &[&["low", "lost", "gone"]],
        &["gone"],
    ));
}

#[test]
fn an_outdated_drawing_is_seen() {
    let drawing = " 1  high\n 0  low   error/\n";
    assert_none(drawing_complaints(drawing, &[&["low", "error"], &["high"]]));
    one(
        drawing_complaints(drawing, &[&["low"], &["error"]]),
        "`error` on rung 1",
    );
}

#[test]
fn a_path_that_leads_nowhere_is_seen() {
    let text = "`src/page.rs` and `tests/gone.rs`, `tests/<room>.rs`, `cargo test`, src/other.rs";
    one(
        document_complaints("README.md", text, |path| path == "src/page.rs"),
        "`tests/gone.rs`",
    );
}

#[test]
fn an_orphan_is_seen() {
    let mut files = vec![
        ("src/lib.rs", "mod a; mod inline { mod deep; }"),
        ("src/a/mod.rs", "pub(crate) mod b;"),
        ("src/a/b.rs", "#[cfg(test)] mod tests;"),
        ("src/a/b/tests.rs", ""),
        ("src/inline/deep.rs", ""),
    ];
    assert_none(declaration_complaints(&small(&files)));
    files.push(("src/a/orphan.rs", "// mod orphan;"));
    one(
        declaration_complaints(&small(&files)),
        "src/a/orphan.rs: no `mod`",
    );
    files.pop();
    files[1].1 = "mod b; mod gone;";
    one(
        declaration_complaints(&small(&files)),
        "`mod gone` leads to no file",
    );
}

#[test]
fn a_missing_introduction_is_seen() {
    let mut tree = small(&[("src/lib.rs", ""), ("tests/a.rs", "")]);
    assert_none(introduction_complaints(&tree));
    tree.insert(
        "tests/a.rs".to_string(),
        "// a comment\n//! too late\n".to_string(),
    );
    one(introduction_complaints(&tree), "tests/a.rs");
}

#[test]
fn a_test_that_nobody_compiles_is_seen() {
    let roots = target_roots(
        r#"{"targets":[{"src_path":"/p/tests/a.rs"},{"src_path":"/p/benches/b.rs"}]}"#,
        "/p",
    );
    let mut files = vec![
        ("tests/a.rs", "mod support;"),
        ("tests/support/mod.rs", ""),
        (
            "benches/b.rs",
            "#[path = \"../tests/support/child.rs\"] mod child;",
        ),
        ("tests/support/child.rs", ""),
    ];
    assert_none(target_complaints(&small(&files), &roots));
    files.push(("test/map.rs", ""));
    one(target_complaints(&small(&files), &roots), "test/map.rs");
    files.pop();
    files[0].1 = "";
    one(
        target_complaints(&small(&files), &roots),
        "tests/support/mod.rs",
    );
}

#[test]
fn a_benchmark_with_the_wrong_main_is_seen() {
    let tree = small(&[("benches/open.rs", ""), ("benches/inputs/mod.rs", "")]);
    let right = "[[bench]]\nname = \"open\"\nharness = false\n\n[profile.bench]\n";
    assert_none(harness_complaints(&tree, right));
    let wrong = "[[bench]]\nname = \"open\"\n\n[[bench]]\nname = \"other\"\nharness = false\n";
    one(harness_complaints(&tree, wrong), "benches/open.rs");
    one(harness_complaints(&tree, ""), "benches/open.rs");
    let tree = small(&[("benches/open/main.rs", "")]);
    assert_none(harness_complaints(&tree, right));
    one(harness_complaints(&tree, wrong), "benches/open/main.rs");
}

#[test]
fn a_platform_outside_sys_is_seen() {
    for text in [
        "#[cfg(target_os = \"linux\")] fn f() {}",
        "#![cfg_attr(not(any(test, target_family = \"unix\")), no_std)]",
        "fn f() -> bool { cfg!(all(test, windows)) }",
    ] {
        one(
            platform_complaints(&small(&[("src/page.rs", text)])),
            "outside sys/",
        );
        assert_none(platform_complaints(&small(&[("src/sys/mod.rs", text)])));
    }
    let harmless = "#[cfg(test)] use std::os::unix::fs::FileExt; // cfg(target_os)\n#[cfg(miri)] const X: u8 = 0;";
    assert_none(platform_complaints(&small(&[("src/page.rs", harmless)])));
}

#[test]
fn an_unsafe_file_that_is_not_listed_is_seen() {
    let lib = ("src/lib.rs", "#![deny(missing_docs, unsafe_code)]");
    let file = ("src/sys/mod.rs", "#![allow(unsafe_code)]");
    let item = (
        "src/region.rs",
        "#[allow(unsafe_code)]\nfn f() {\n    // SAFETY: why\n    unsafe { g() }\n}",
    );
    let listed = ["src/sys/", "src/region.rs"];
    assert_none(unsafe_complaints(&small(&[lib, file, item]), &listed));
    one(
        unsafe_complaints(&small(&[lib, file, item]), &["src/sys/"]),
        "src/region.rs:2: relaxes",
    );
    one(
        unsafe_complaints(&small(&[lib, file]), &listed),
        "UNSAFE lists src/region.rs",
    );
    one(
        unsafe_complaints(&small(&[("src/lib.rs", ""), file, item]), &listed),
        "does not deny",
    );
    let bare = (
        "src/region.rs",
        "#[expect(unsafe_code)]\nfn f() { unsafe { g() } }",
    );
    one(
        unsafe_complaints(&small(&[lib, file, bare]), &listed),
        "without a SAFETY comment",
    );
}

#[test]
fn an_empty_name_is_seen() {
    assert_none(name_complaints(&small(&[("src/utility.rs", "")])));
    one(name_complaints(&small(&[("src/util.rs", "")])), "`util`");
    one(
        name_complaints(&small(&[("tests/common/mod.rs", "")])),
        "`common`",
    );
}
