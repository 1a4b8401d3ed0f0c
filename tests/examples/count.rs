//! `count`, compared with a naive count.

use super::*;

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
