//! The sources are where ARCHITECTURE.md says, and use only what stands below them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of code in one file, comments, blank lines and unit tests aside.
const CODE_LINES_MAX: usize = 400;

/// File names that do not describe the content.
const VAGUE: [&str; 7] = [
    "util", "utils", "helper", "helpers", "common", "manager", "misc",
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Each file of `src/` below its name there, without its unit tests.
fn files() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
        let name = path.strip_prefix(&src).unwrap().display().to_string();
        (name, code.to_owned())
    };
    paths.into_iter().map(read).collect()
}

fn architecture() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    fs::read_to_string(path).unwrap()
}

/// The layer of each module, from the drawing in ARCHITECTURE.md: a number, then the modules of that layer.
fn layers() -> HashMap<String, usize> {
    let text = architecture();
    let drawing = text.split("```layers\n").nth(1).expect("a block of layers");
    let lines = drawing.split("```").next().unwrap().lines();
    lines
        .flat_map(|line| {
            let mut words = line.split_whitespace();
            let layer = words.next().and_then(|n| n.parse().ok()).expect("a number");
            words.map(move |name| (name.trim_end_matches('/').to_owned(), layer))
        })
        .collect()
}

/// The top-level module that a file belongs to.
fn module(file: &str) -> &str {
    let first = file.split('/').next().unwrap();
    first.strip_suffix(".rs").unwrap_or(first)
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim_start);
    lines.filter(|line| !line.is_empty() && !line.starts_with("//"))
}

#[test]
fn a_module_uses_only_layers_below_its_own() {
    let layers = layers();
    for (file, text) in files() {
        let module = module(&file);
        if matches!(module, "lib" | "linux" | "docs" | "portable") {
            continue;
        }
        let own = *layers
            .get(module)
            .unwrap_or_else(|| panic!("{file}: in no layer"));
        for line in code(&text) {
            for used in line.split("crate::").skip(1) {
                let name = used
                    .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .next()
                    .unwrap();
                let Some(&layer) = layers.get(name).filter(|_| name != module) else {
                    continue;
                };
                assert!(
                    layer < own,
                    "{file} uses {name}, which is not below it: {line}"
                );
            }
        }
    }
}

#[test]
fn files_are_short_and_named_after_what_they_hold() {
    for (file, text) in files() {
        let lines = code(&text).count();
        assert!(lines <= CODE_LINES_MAX, "{file}: {lines} lines of code");
        for part in file.trim_end_matches(".rs").split('/') {
            assert!(
                !VAGUE.contains(&part),
                "{file}: {part} does not describe the content"
            );
        }
        assert!(
            text.starts_with("//! "),
            "{file}: the first line does not say what it is for"
        );
    }
}

#[test]
fn the_readme_and_the_crate_page_promise_the_same() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name| fs::read_to_string(root.join(name)).unwrap();
    assert!(read("README.md").contains(&read("docs/promises.md")));
    assert!(read("src/lib.rs").contains("include_str!(\"../docs/promises.md\")"));
}

/// The documents are also read as files, where `crate::docs::leases` leads nowhere.
#[test]
fn links_in_documents_lead_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in [root.to_path_buf(), root.join("docs")] {
        let entries = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        for file in entries.filter(|path| path.extension().is_some_and(|e| e == "md")) {
            let text = fs::read_to_string(&file).unwrap();
            let inline = text
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next());
            let defined = text
                .lines()
                .filter_map(|line| line.strip_prefix('[')?.split_once("]: "));
            for link in inline.chain(defined.map(|(_, link)| link)) {
                let target = link.split('#').next().unwrap();
                let leads = link.starts_with("https://") || dir.join(target).exists();
                assert!(leads, "{}: {link}", file.display());
            }
        }
    }
}

#[test]
fn unsafe_code_is_where_the_architecture_allows_it() {
    let text = architecture();
    let listed = text.split("```unsafe\n").nth(1).expect("a block of files");
    let listed: Vec<&str> = listed
        .split("```")
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let allows = |file: &str| {
        listed
            .iter()
            .any(|name| file == *name || (name.ends_with('/') && file.starts_with(name)))
    };
    for (file, text) in files() {
        let uses = code(&text).any(|line| line.contains("unsafe ") && !line.contains("unsafe_"));
        if file.starts_with("sys/") || file == "lib.rs" {
            continue;
        }
        assert!(
            !uses || allows(&file),
            "{file}: unsafe code is not allowed here"
        );
    }
}

#[test]
fn system_calls_know_no_type_of_another_module() {
    for (file, text) in files()
        .into_iter()
        .filter(|(file, _)| file.starts_with("sys/"))
    {
        for used in text.split("crate::").skip(1) {
            let is_allowed = used.starts_with("sys::") || used.starts_with("once::");
            assert!(
                is_allowed,
                "{file} uses crate::{}",
                used.lines().next().unwrap()
            );
        }
    }
}

#[test]
fn a_platform_is_named_where_the_architecture_says() {
    let allowed = ["lib.rs", "options.rs", "portable/mod.rs", "reason.rs"];
    let platforms = ["target_os", "target_family", "unix", "windows"];
    for (file, text) in files() {
        if file.starts_with("sys/") || file.ends_with("tests.rs") || allowed.contains(&&*file) {
            continue;
        }
        let mut conditions =
            code(&text).filter(|line| line.contains("cfg") && !line.contains("test"));
        let named = conditions.find(|line| platforms.iter().any(|name| line.contains(name)));
        assert_eq!(
            named, None,
            "{file}: only `sys/` may depend on the platform"
        );
    }
}
