//! The examples as programs, on files, pipes and terminals, compared with a naive count.
#![allow(clippy::disallowed_methods)]

mod support;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use support::example;
use support::leased::Folder;

/// Lines, words, bytes: one byte after the other.
fn naive(bytes: &[u8]) -> [u64; 3] {
    let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\x0b' | b'\x0c' | b'\r');
    let lines = bytes.iter().filter(|&&byte| byte == b'\n').count();
    let words = bytes.split(space).filter(|word| !word.is_empty()).count();
    [lines, words, bytes.len()].map(|n| n as u64)
}

/// What `count` must print for these inputs: the columns are as wide as the widest number or name.
fn table<N: AsRef<OsStr>>(inputs: &[(N, &[u8])]) -> Vec<u8> {
    let mut rows = Vec::new();
    let mut total = [0; 3];
    for (name, bytes) in inputs {
        let counts = naive(bytes);
        total = [0, 1, 2].map(|n| total[n] + counts[n]);
        rows.push((counts, name.as_ref().as_bytes()));
    }
    if inputs.len() > 1 {
        rows.push((total, b"total"));
    }
    let numbers = rows.iter().flat_map(|(counts, _)| counts);
    let width = numbers
        .map(|n| n.to_string().len())
        .max()
        .unwrap_or(0)
        .max(5);
    let mut text = format!(
        "{:>width$} {:>width$} {:>width$} file\n",
        "lines", "words", "bytes"
    )
    .into_bytes();
    for ([lines, words, bytes], name) in rows {
        text.extend(format!("{lines:>width$} {words:>width$} {bytes:>width$} ").bytes());
        text.extend(name);
        text.push(b'\n');
    }
    text
}

#[track_caller]
fn assert_counts(output: &Output, expected: &[u8]) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(expected)
    );
    assert_eq!(output.status.code(), Some(0));
}

/// Words, white space of every kind, and bytes that are neither.
fn text(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    let letters = b"abc \t\n\x0b\x0c\r\x08\x0e\x1f\x21\x00\x85\xa0\xff";
    (0..len).map(|_| letters[next() % letters.len()]).collect()
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(support::temp_dir())
    }

    fn file(&self, name: impl AsRef<Path>, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }
}

#[test]
fn count_agrees_with_a_naive_count() {
    let dir = Dir::new();
    // Around the blocks of its sums, pages, what is read at once, and its steps.
    let sizes = [
        0,
        1,
        2,
        254,
        255,
        256,
        257,
        510,
        511,
        4095,
        4096,
        4097,
        65537,
        1 << 20,
        (1 << 20) + 1,
        (16 << 20) - 1,
        16 << 20,
        (16 << 20) + 1,
        (32 << 20) + 300,
    ];
    let inputs = sizes.map(|size| {
        (
            dir.file(size.to_string(), &text(size, size as u64)),
            text(size, size as u64),
        )
    });
    let inputs = inputs
        .iter()
        .map(|(path, bytes)| (path, bytes.as_slice()))
        .collect::<Vec<_>>();
    let output = example("count")
        .args(inputs.iter().map(|(path, _)| path))
        .output()
        .expect("run");
    assert_counts(&output, &table(&inputs));
}

#[test]
fn count_sees_words_that_cross_its_steps() {
    let dir = Dir::new();
    let step = 16 << 20;
    for (name, at, byte) in [
        ("no gap", 0, b'w'),
        ("before", step - 1, b' '),
        ("after", step, b'\n'),
    ] {
        let mut bytes = vec![b'w'; step + 9];
        bytes[at] = byte;
        let path = dir.file(name, &bytes);
        let output = example("count").arg(&path).output().expect("run");
        assert_counts(&output, &table(&[(&path, &bytes)]));
    }
}

#[test]
fn count_prints_one_row_without_a_total_for_one_file() {
    let output = example("count").arg("Cargo.toml").output().expect("run");
    assert_counts(
        &output,
        &table(&[("Cargo.toml", &fs::read("Cargo.toml").expect("read"))]),
    );
}

#[test]
fn count_counts_a_file_twice_if_it_is_named_twice() {
    let bytes = fs::read("Cargo.toml").expect("read");
    let output = example("count")
        .args(["Cargo.toml", "Cargo.toml"])
        .output()
        .expect("run");
    assert_counts(
        &output,
        &table(&[("Cargo.toml", &bytes), ("Cargo.toml", &bytes)]),
    );
}

#[test]
fn count_reads_files_that_tell_no_size() {
    let version = fs::read("/proc/version").expect("read");
    let output = example("count")
        .args(["/proc/version", "/dev/null"])
        .output()
        .expect("run");
    assert_counts(
        &output,
        &table(&[("/proc/version", &version), ("/dev/null", b"")]),
    );
}

#[test]
fn count_reads_standard_input_from_a_pipe() {
    let bytes = text(3 << 20, 3);
    for args in [&[][..], &["-"]] {
        let mut command = example("count");
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("run");
        let mut pipe = child.stdin.take().expect("a pipe");
        // In pieces of odd sizes.
        for piece in bytes.chunks(9973) {
            pipe.write_all(piece).expect("write");
        }
        drop(pipe);
        let output = child.wait_with_output().expect("wait");
        assert_counts(&output, &table(&[("-", &bytes)]));
    }
}

#[test]
fn count_reads_standard_input_between_files() {
    let dir = Dir::new();
    let (typed, stored) = (text(1000, 1), text(2000, 2));
    let path = dir.file("stored", &stored);
    let input = File::open(dir.file("input", &typed)).expect("open");
    let mut command = example("count");
    let output = command
        .arg(&path)
        .arg("-")
        .arg(&path)
        .stdin(input)
        .output()
        .expect("run");
    assert_counts(
        &output,
        &table(&[
            (path.as_os_str(), &stored),
            (OsStr::new("-"), &typed),
            (path.as_os_str(), &stored),
        ]),
    );
}

#[test]
fn count_starts_where_standard_input_stands() {
    let dir = Dir::new();
    let bytes = text(70_000, 4);
    let mut input = File::open(dir.file("input", &bytes)).expect("open");
    input.seek(SeekFrom::Start(4567)).expect("seek");
    let output = example("count")
        .stdin(input.try_clone().expect("dup"))
        .output()
        .expect("run");
    assert_counts(&output, &table(&[("-", &bytes[4567..])]));
    assert_eq!(
        input.stream_position().expect("seek"),
        70_000,
        "left at the end, as by reading"
    );
}

#[test]
fn count_reports_bad_paths_and_goes_on() {
    let dir = Dir::new();
    let bytes = text(5000, 5);
    let good = dir.file("good", &bytes);
    let missing = dir.0.path().join("missing");
    let mut command = example("count");
    command
        .arg(&missing)
        .arg(&good)
        .arg(dir.0.path())
        .arg(&good);
    let output = command.output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    let expected = table(&[(&good, &bytes), (&good, &bytes)]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&expected)
    );
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    let errors = errors.lines().collect::<Vec<_>>();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for (line, path) in errors.iter().zip([missing.as_path(), dir.0.path()]) {
        assert!(line.starts_with("count: "), "{line}");
        assert!(
            line.contains(path.to_str().expect("UTF-8")),
            "{line} names its path"
        );
    }
    assert!(
        errors[0].contains("No such file or directory"),
        "{} tells the cause",
        errors[0]
    );
    assert!(
        errors[1].contains("directory"),
        "{} tells the cause",
        errors[1]
    );
}

#[test]
fn count_prints_a_total_even_if_nothing_could_be_read() {
    let output = example("count")
        .args(["missing 1", "missing 2"])
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    let rows = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(rows.lines().nth(1), Some("    0     0     0 total"));
}

#[test]
fn count_writes_names_as_they_are() {
    let dir = Dir::new();
    let name = OsStr::from_bytes(b"\xff not UTF-8");
    let path = dir.file(name, b"one two\n");
    let output = example("count").arg(&path).output().expect("run");
    assert_eq!(output.stdout, table(&[(&path, b"one two\n")]));
}

#[test]
fn count_shows_how() {
    let dir = Dir::new();
    let path = dir.file("small", b"a b\n");
    let memfd = sealed_memfd(&text(2 << 20, 6));
    let sealed = format!("/proc/{}/fd/{}", std::process::id(), memfd.as_raw_fd());
    let mut command = example("count");
    command
        .arg("--how")
        .arg(&path)
        .arg(&sealed)
        .arg("-")
        .stdin(Stdio::null());
    let output = command.output().expect("run");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let rows = String::from_utf8(output.stdout).expect("UTF-8");
    let how = rows
        .lines()
        .map(|row| row.split_whitespace().nth(3).unwrap_or_default());
    assert_eq!(
        how.collect::<Vec<_>>(),
        ["how", "memory", "sealed", "memory", "total"]
    );
}

#[test]
fn count_is_silent_if_nobody_reads_what_it_prints() {
    let mut command = example("count");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("run");
    // It prints only once its input has ended.
    drop(child.stdout.take());
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("wait");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn count_fails_if_its_output_is_lost() {
    let full = OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("open");
    let output = example("count")
        .arg("Cargo.toml")
        .stdout(full)
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(error.contains("No space left on device"), "{error}");
}

#[test]
fn count_refuses_unknown_options() {
    let output = example("count")
        .arg("--no-such-option")
        .output()
        .expect("run");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

#[test]
fn count_shows_progress_of_slow_input_on_a_terminal_only() {
    let (mut screen, terminal) = terminal().expect("a terminal");
    let mut command = example("count");
    command
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(terminal);
    let mut child = command.spawn().expect("run");
    // What the command keeps open of the terminal.
    drop(command);
    let mut pipe = child.stdin.take().expect("a pipe");
    let mut shown = Vec::new();
    let mut sent = 0;
    // Slow until the bar appears; 1,000 pauses are more than it needs.
    while !String::from_utf8_lossy(&shown).contains("read") {
        pipe.write_all(b"word ").expect("write");
        sent += 1;
        assert!(
            sent < 1000,
            "no bar, only {:?}",
            String::from_utf8_lossy(&shown)
        );
        shown.extend(readable_within(&mut screen, 20));
    }
    drop(pipe);
    let output = child.wait_with_output().expect("wait");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&table(&[("-", &b"word ".repeat(sent))]))
    );
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn grow_shows_that_ram_comes_by_the_page() {
    let output = example("grow").output().expect("run");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0), "{text}");
    let column = |row: &str| {
        row.split(" KiB")
            .next()?
            .split_whitespace()
            .last()?
            .parse::<usize>()
            .ok()
    };
    let resident: Vec<usize> = text.lines().filter_map(column).collect();
    let page = support::kernel::page_size() >> 10;
    let all = 64 << 10;
    assert_eq!(
        resident,
        [0, page, all / 4, all / 4, all / 8, page, all],
        "{text}"
    );
}

#[test]
fn survive_survives_and_memmap2_does_not() {
    let leased = Folder::new();
    let build = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = leased.as_ref().map_or(build, Folder::path);
    let args = ["--rounds", "20", "--mib", "2", "--dir"];
    let run = example("survive").args(args).arg(folder).output();
    let output = run.expect("run");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("stillmap: 20 times"), "{text}");
    assert!(text.contains("changed under the reader: 0"), "{text}");
    assert_eq!(text.contains("before: Leased"), leased.is_some(), "{text}");
    assert!(text.contains("memmap2: killed by signal 7"), "{text}");
}

/// A memfd that no process can change any more.
fn sealed_memfd(bytes: &[u8]) -> File {
    // SAFETY: the name is a C string.
    let fd = unsafe {
        libc::memfd_create(
            c"sealed".as_ptr(),
            libc::MFD_ALLOW_SEALING | libc::MFD_CLOEXEC,
        )
    };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: new, and no other code has it.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).expect("write");
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: no pointer is involved.
    let sealed = unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) };
    assert_eq!(sealed, 0, "{}", io::Error::last_os_error());
    file
}

/// A new pseudoterminal: the side of the screen, and the side for programs.
fn terminal() -> io::Result<(File, File)> {
    let screen = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open("/dev/ptmx")?;
    let mut name = [0 as libc::c_char; 64];
    // SAFETY: an open descriptor.
    let unlocked = unsafe { libc::unlockpt(screen.as_raw_fd()) };
    // SAFETY: an open descriptor, and a buffer of the length given.
    let named = unsafe { libc::ptsname_r(screen.as_raw_fd(), name.as_mut_ptr(), name.len()) };
    if unlocked != 0 || named != 0 {
        return Err(io::Error::last_os_error());
    }
    let name = name.map(|byte| byte as u8);
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let terminal = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(OsStr::from_bytes(name))?;
    Ok((screen, terminal))
}

/// What can be read now or within some milliseconds, perhaps nothing.
fn readable_within(screen: &mut File, milliseconds: i32) -> Vec<u8> {
    let mut poll = libc::pollfd {
        fd: screen.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, alive for the call.
    let ready = unsafe { libc::poll(&mut poll, 1, milliseconds) };
    let mut bytes = vec![0; 4096];
    let n = if ready > 0 {
        screen.read(&mut bytes).expect("read")
    } else {
        0
    };
    bytes.truncate(n);
    bytes
}

/// Collatz steps, one by one.
fn steps(mut n: u64) -> u64 {
    let mut steps = 0;
    while n > 1 {
        n = if n % 2 == 0 { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    steps
}

#[test]
fn workers_agree_with_one_and_replace_the_dead() {
    let below = 20_000;
    let most = (0..below).map(steps).max().expect("numbers");
    let number = (0..below).find(|&n| steps(n) == most).expect("it");
    for workers in ["1", "3", "7"] {
        let mut command = example("workers");
        command.args(["--below", &below.to_string(), "--workers", workers]);
        let output = command.output().expect("run");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            format!(
                "{number} takes {most} steps, more than any other number below {below}\n\
                 {workers} workers, 0 lost and replaced, {below} numbers counted\n"
            )
        );
        assert!(output.status.success() && output.stderr.is_empty());
        let output = command.arg("--kill").output().expect("run");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.starts_with(&format!("{number} takes {most} steps")));
        assert!(
            text.contains("1 lost and replaced, 20000 numbers"),
            "{text}"
        );
        assert!(String::from_utf8_lossy(&output.stderr).contains("signal: 6"));
        assert!(output.status.success());
    }
}

#[test]
fn counters_at_once_lose_nothing() {
    let dir = Dir::new();
    let path = dir.0.path().join("counter");
    let mut command = example("counter");
    command.arg(&path).args(["--add", "100000"]);
    command.stdout(Stdio::null());
    let children: Vec<_> = (0..5).map(|_| command.spawn().expect("run")).collect();
    for mut child in children {
        assert!(child.wait().expect("wait").success());
    }
    let output = example("counter").arg(&path).output().expect("run");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "visit 6: from 500000 to 500001\n"
    );
    let refused = example("counter").arg(dir.0.path()).output().expect("run");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is a directory"));
    let text = dir.file("text", b"not a counter at all");
    let refused = example("counter").arg(&text).output().expect("run");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(fs::read(&text).expect("read"), b"not a counter at all");
}

#[test]
fn output_that_goes_nowhere_is_said_in_one_line() {
    let dir = Dir::new();
    let path = dir.0.path().join("counter");
    for (name, arguments) in [
        ("counter", vec![path.to_str().expect("a name in UTF-8")]),
        ("workers", vec!["--below", "100"]),
        ("handoff", vec![]),
        (
            "survive",
            vec![
                "--rounds=1",
                "--mib=1",
                "--dir",
                env!("CARGO_TARGET_TMPDIR"),
            ],
        ),
    ] {
        let full = File::options().write(true).open("/dev/full").expect("open");
        let mut command = example(name);
        let input = File::open(dir.file("input", b"bytes")).expect("open");
        command.args(arguments).stdin(input).stdout(full);
        let output = command.output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.starts_with(&format!("{name}: No space left")),
            "{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_handoff_arrives_sealed() {
    let dir = Dir::new();
    let bytes = text(3_000_000, 7);
    let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    let input = File::open(dir.file("input", &bytes)).expect("open");
    let output = example("handoff").stdin(input).output().expect("run");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "giver:    3000000 bytes, Sealed");
    assert_eq!(
        lines[1],
        format!("receiver: 3000000 bytes, Sealed, sum {sum}")
    );
    assert!(lines[2].contains("sealed against writing"), "{text}");
    assert!(output.status.success());
}
