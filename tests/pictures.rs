//! The examples that show memory, run as programs: `residency` in a terminal, in a pipe and as a picture;
//! `mmap_vs_malloc` as a table.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

mod support;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use support::bytes::pattern;
use support::kernel::page_size;
use support::pipe::terminal;
use support::{file_with, skip, temp_dir};

fn example(name: &str) -> Command {
    let mut command = support::example(name);
    command.stdin(Stdio::null()).env_remove("NO_COLOR");
    command
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

/// 1000 pages of a file, on the disk and in RAM.
fn pages_in_ram(dir: &Path) -> std::path::PathBuf {
    let path = file_with(dir, "data", &pattern(1, 1000 * page_size()));
    File::open(&path)
        .and_then(|file| file.sync_all())
        .expect("write it back");
    path
}

#[test]
fn a_file_is_one_line_as_wide_as_asked() {
    let dir = temp_dir();
    let path = pages_in_ram(dir.path());
    let output = example("residency")
        .arg(&path)
        .args(["--width", "50"])
        .output()
        .expect("run");
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert!(
        lines[0].ends_with("in RAM, 1,000 of 1,000 pages"),
        "{lines:?}"
    );
    assert_eq!(lines[1], "█".repeat(50));
}

#[test]
fn evicted_and_read_ahead_again() {
    let dir = temp_dir();
    let path = pages_in_ram(dir.path());
    let run = |option: &str| {
        let output = example("residency")
            .arg(option)
            .arg(&path)
            .output()
            .expect("run");
        assert!(output.status.success(), "{output:?}");
        stdout(&output).to_owned()
    };
    let evicted = run("--evict");
    if evicted.contains("1,000 of 1,000") {
        return skip("this file system keeps its pages");
    }
    assert!(evicted.contains("nothing of"), "{evicted}");
    assert!(evicted.contains("····"), "{evicted}");
    let mut ahead = run("--prefetch");
    // Nobody tells when the device is done.
    for _ in 0..10_000 {
        if ahead.contains("1,000 of 1,000 pages") {
            return;
        }
        ahead = run("--width=80");
    }
    panic!("it never came: {ahead}");
}

#[test]
fn in_a_terminal_it_is_a_map_in_colour() {
    let dir = temp_dir();
    let path = pages_in_ram(dir.path());
    let Ok((master, slave)) = terminal() else {
        return skip("no terminals here");
    };
    let size = libc::winsize {
        ws_row: 30,
        ws_col: 71,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: reads one struct.
    assert_eq!(
        unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSWINSZ, &size) },
        0
    );
    let mut child = example("residency")
        .arg(&path)
        .stdout(slave)
        .spawn()
        .expect("run");
    let mut text = Vec::new();
    // Ends with an error once nobody has the other side open.
    let _ = File::from(master).read_to_end(&mut text);
    assert!(child.wait().expect("wait").success());
    let text = String::from_utf8(text).expect("UTF-8");
    // 60 cells beside the offsets, two rows in a line: 1000 cells are nine lines.
    let rows: Vec<&str> = text.lines().filter(|line| line.contains('▀')).collect();
    assert_eq!(rows.len(), 9, "{text}");
    assert_eq!(rows[0].matches('▀').count(), 60, "{text}");
    assert!(text.contains("\x1b[38;"), "{text}");
    assert!(text.contains("a page"), "{text}");
    assert!(text.contains("all in RAM"), "{text}");
}

#[test]
fn the_picture_is_a_picture() {
    let dir = temp_dir();
    let path = pages_in_ram(dir.path());
    let picture = dir.path().join("picture.svg");
    let mut command = example("residency");
    command.arg("--svg").arg(&picture).arg(&path).arg(&path);
    let output = command.output().expect("run");
    assert!(output.status.success(), "{output:?}");
    let svg = std::fs::read_to_string(picture).expect("the picture");
    assert!(
        svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"),
        "{svg}"
    );
    assert_eq!(svg.matches("1,000 of 1,000 pages").count(), 2);
    assert!(svg.matches("<rect").count() > 20);
}

#[test]
fn a_name_can_neither_move_the_cursor_nor_break_the_picture() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "two\nlines \x1b[31m & <red>", b"hello");
    let picture = dir.path().join("picture.svg");
    let mut command = example("residency");
    let output = command.arg("--svg").arg(&picture).arg(&path).output();
    let output = output.expect("run");
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        text.contains("two\\nlines ") && !text.contains('\x1b'),
        "{text}"
    );
    let svg = std::fs::read_to_string(picture).expect("the picture");
    assert!(
        svg.contains("&amp; &lt;red&gt;") && !svg.contains('\x1b'),
        "{svg}"
    );
}

#[test]
fn what_cannot_be_evicted_is_a_failure() {
    let output = example("residency")
        .args(["--evict", "/proc/version"])
        .output();
    let output = output.expect("run");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/proc/version"));
}

#[test]
fn what_cannot_be_looked_at_is_said_and_the_rest_is_shown() {
    let dir = temp_dir();
    let path = pages_in_ram(dir.path());
    let empty = file_with(dir.path(), "empty", b"");
    let missing = dir.path().join("missing");
    let output = example("residency")
        .args([&missing, &path, &empty])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("missing"), "{errors}");
    assert!(
        stdout(&output).contains("1,000 of 1,000 pages"),
        "{output:?}"
    );
    assert!(stdout(&output).contains("empty: empty\n"), "{output:?}");
    assert!(
        !stdout(&output).contains("  \n"),
        "no map of nothing: {output:?}"
    );
}

#[test]
fn every_claim_is_measured() {
    let dir = temp_dir();
    let output = example("mmap_vs_malloc")
        .arg("--dir")
        .arg(dir.path())
        .output()
        .expect("run");
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    let claims = text.matches("  claimed   ").count();
    assert!(claims >= 10, "{text}");
    assert_eq!(text.matches("    held?     ").count(), claims, "{text}");
    // These hold on any Linux.
    for claim in [
        "grants address space",
        "comes at the first touch, zeroed",
        "munmap gives",
        "a pipe",
        "MAP_SHARED",
    ] {
        let (_, after) = text
            .split_once(claim)
            .unwrap_or_else(|| panic!("{claim}: {text}"));
        let held = after
            .lines()
            .find(|line| line.starts_with("    held?"))
            .expect("an answer");
        if let Some((_, why)) = held.split_once("not tried: ") {
            skip(format_args!("{claim}: {why}"));
            continue;
        }
        assert!(held.ends_with("yes"), "{claim}: {text}");
    }
}
