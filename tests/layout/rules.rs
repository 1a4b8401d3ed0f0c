//! The rules: each takes the sources and gives what is wrong with them.

use crate::rust::*;
use crate::{DOCUMENTS, FORBIDDEN_NAMES};
use std::collections::BTreeSet;

/// `use crate::x`, grouped uses, inline `crate::x::y`, and `super::` that climbs out of the module.
pub fn ladder_complaints(tree: &Tree, ladder: &[&[&str]]) -> Vec<String> {
    let mut complaints = Vec::new();
    let modules = top_modules(tree);
    let rung = |module: &str| ladder.iter().position(|rung| rung.contains(&module));
    for module in &modules {
        if rung(module).is_none() && !DOCUMENTS.contains(&module.as_str()) {
            complaints.push(format!("module `{module}` stands on no rung of LADDER"));
        }
    }
    for module in ladder.iter().flat_map(|rung| rung.iter()) {
        if !modules.contains(*module) {
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
pub fn drawing_complaints(text: &str, ladder: &[&[&str]]) -> Vec<String> {
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
pub fn document_complaints(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Vec<String> {
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
pub fn declaration_complaints(tree: &Tree) -> Vec<String> {
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
pub fn introduction_complaints(tree: &Tree) -> Vec<String> {
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
pub fn target_complaints(tree: &Tree, roots: &BTreeSet<String>) -> Vec<String> {
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
pub fn harness_complaints(tree: &Tree, manifest: &str) -> Vec<String> {
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
pub fn platform_complaints(tree: &Tree) -> Vec<String> {
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
pub fn unsafe_complaints(tree: &Tree, listed: &[&str]) -> Vec<String> {
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
pub fn name_complaints(tree: &Tree) -> Vec<String> {
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
