//! Just enough of Rust to read who declares and who uses what.

use std::collections::{BTreeMap, BTreeSet};

/// Path below the package, with `/`, and text.
pub type Tree = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    Word(String),
    Text(String),
    Sign(char),
}

#[derive(Debug, Clone)]
pub struct Token {
    pub kind: Kind,
    pub line: usize,
}

impl Token {
    pub fn word(&self) -> Option<&str> {
        match &self.kind {
            Kind::Word(word) => Some(word),
            _ => None,
        }
    }

    pub fn is(&self, sign: char) -> bool {
        self.kind == Kind::Sign(sign)
    }
}

/// Words, string literals and signs; comments, lifetimes and characters are left out.
pub fn tokens(text: &str) -> Vec<Token> {
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
pub fn module_of(path: &str) -> Vec<String> {
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

pub fn top_modules(tree: &Tree) -> BTreeSet<String> {
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
pub fn exports(tree: &Tree) -> BTreeMap<String, String> {
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
pub fn each_token<'t>(
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
pub fn paths_used(tree: &Tree, path: &str) -> Vec<(usize, Vec<String>)> {
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

pub fn followed_by_path(all: &[Token], i: usize) -> bool {
    let sign = |n: usize, sign| all.get(i + n).is_some_and(|t| t.is(sign));
    sign(1, ':') && sign(2, ':')
}

/// Reads a path or a use tree from token `i` on; returns the token behind it.
pub fn use_tree(
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
pub fn reachable(tree: &Tree, root: &str) -> (BTreeSet<String>, Vec<String>) {
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
pub fn path_attribute(all: &[Token], i: usize) -> Option<String> {
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
pub fn normal(path: &str) -> String {
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
