//! Each rule fires on a small tree that breaks it, and only there.

use crate::rules::*;
use crate::rust::Tree;
use crate::{assert_none, target_roots};

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
    ladder_complaints(&tree, &[&["low"], &["left", "right"]])
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
        ladder_complaints(&tree, &[&["low"]]),
        "`lost` stands on no rung",
    );
    one(
        ladder_complaints(&tree, &[&["low", "lost", "gone"]]),
        "`gone`",
    );
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
