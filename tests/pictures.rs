//! The examples about memory, run as programs: `residency` and `mmap_vs_malloc`.

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use support::bytes::pattern;
use support::kernel::page_size;
use support::{file_with, skip, temp_dir};

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("run")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

/// 1000 pages of a file, on the disk and in RAM.
fn pages_in_ram(dir: &Path) -> PathBuf {
    let path = file_with(dir, "data", &pattern(1, 1000 * page_size()));
    let synced = File::open(&path).and_then(|file| file.sync_all());
    synced.expect("write it back");
    path
}

#[test]
fn residency_shows_what_is_in_ram_and_evicts() {
    let dir = temp_dir();
    let path = pages_in_ram(dir.path());
    let missing = dir.path().join("two\nlines \x1b[31m");
    let residency = || support::example("residency");
    let output = run(residency().args(["--width", "50"]).args([&missing, &path]));
    assert_eq!(
        output.status.code(),
        Some(1),
        "the missing file is a failure"
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("two\\nlines") && !errors.contains('\x1b'),
        "{errors}"
    );
    let text = stdout(&output);
    assert!(text.contains("1000 of 1000 pages in RAM"), "{text}");
    assert!(text.ends_with(&format!("{}\n", "█".repeat(50))), "{text}");
    let output = run(residency().arg("--evict").arg(&path));
    let text = stdout(&output);
    if text.contains("1000 of 1000") {
        return skip("this file system keeps its pages");
    }
    assert!(
        text.contains(": 0 of 1000") && text.contains("····"),
        "{text}"
    );
    let output = run(residency().args(["--evict", "/proc/version"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn claims_about_mmap_hold() {
    let output = run(&mut support::example("mmap_vs_malloc"));
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    assert_eq!(text.matches("claimed   ").count(), 9, "{text}");
    for claim in text.split("\n\n").filter(|claim| !claim.is_empty()) {
        // musl's free(3) gives memory back.
        let is_of_glibc = cfg!(target_env = "musl") && claim.contains("free may keep RAM");
        if claim.contains("not possible: ") || is_of_glibc {
            skip(claim);
        } else {
            assert!(claim.trim_end().ends_with("held?     yes"), "{claim}");
        }
    }
}
