//! The examples as programs, on files, pipes and terminals, compared with a naive count.
#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod count;

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
