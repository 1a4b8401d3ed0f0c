//! What is not a regular file gets the bytes at `commit`.

use crate::draft_of;
use crate::support::bytes::{assert_same, cat, pattern};
use crate::support::child::{argument, scenario};
use crate::support::pipe::{make_fifo, pipe, pipe_of_files, pipe_with, terminal};
use crate::support::{file_with, temp_dir};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use stillmap::Draft;

#[test]
fn a_fifo() {
    let dir = temp_dir();
    let path = dir.path().join("fifo");
    make_fifo(&path);
    let bytes = pattern(1, 3 << 20);
    let reader = std::thread::spawn({
        let path = path.clone();
        move || cat(File::open(path).unwrap()).unwrap()
    });
    let mut draft = Draft::create(&path, 1).unwrap();
    draft.resize(bytes.len()).unwrap();
    draft.copy_from_slice(&bytes);
    draft.commit().unwrap();
    assert_same(&reader.join().unwrap(), &bytes, "through a FIFO");
    assert!(!fs::metadata(&path).unwrap().is_file());
}

#[test]
fn dropping_writes_nothing() {
    let (mut reader, writer) = pipe_of_files();
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    drop(draft_of(Draft::options(), path.as_ref(), b"x").unwrap());
    drop(writer);
    assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
}

#[test]
fn a_pipe_in_non_blocking_mode_is_waited_for() {
    let (reader, writer) = pipe_with(libc::O_CLOEXEC | libc::O_NONBLOCK);
    // SAFETY: plain numbers.
    assert_eq!(
        unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_SETFL, 0) },
        0
    );
    let bytes = pattern(2, 1 << 20);
    let path = format!("/dev/fd/{}", writer.as_raw_fd());
    let reader = std::thread::spawn(move || cat(File::from(reader)).unwrap());
    draft_of(Draft::options(), path.as_ref(), &bytes)
        .unwrap()
        .commit()
        .unwrap();
    drop(writer);
    assert_same(&reader.join().unwrap(), &bytes, "through a pipe");
}

#[test]
fn a_reader_that_went_away_is_an_error_and_no_signal() {
    scenario!(|| {
        // Rust ignores SIGPIPE; programs that do not must not die of it.
        // SAFETY: the default action is no handler of ours.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        let (reader, writer) = pipe();
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let draft = draft_of(Draft::options(), path.as_ref(), b"unread").unwrap();
        drop(reader);
        let error = draft.commit().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPIPE));
        assert_eq!(error.to_string(), format!("write failed on {path}"));
    })
    .succeed();
}

#[test]
fn a_terminal_and_devices() {
    let (master, slave) = terminal().unwrap();
    let path = format!("/proc/self/fd/{}", slave.as_raw_fd());
    let draft = draft_of(Draft::options(), path.as_ref(), b"hello").unwrap();
    draft.commit().unwrap();
    let mut seen = [0; 5];
    File::from(master).read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello");
    let null = draft_of(Draft::options(), "/dev/null".as_ref(), b"x").unwrap();
    null.commit().unwrap();
    let full = draft_of(Draft::options(), "/dev/full".as_ref(), b"x").unwrap();
    let error = full.commit().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn standard_output_under_all_its_names() {
    for name in ["", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let mut child = scenario!(|| {
            let name = argument("NAME");
            let mut draft = match name.to_str().unwrap() {
                "" => Draft::stdout(1),
                name => Draft::create(name, 1),
            }
            .unwrap();
            draft.resize(22).unwrap();
            draft.copy_from_slice(b"report: from the draft");
            print!("\nreport: printed before\n");
            draft.commit().unwrap();
            println!("\nreport: printed after");
        });
        let outcome = child.argument("NAME", name).succeed();
        let reports = outcome.reports();
        assert_eq!(
            reports,
            ["printed before", "from the draft", "printed after"],
            "{name}"
        );
    }
}

/// A link of /proc that only the kernel can follow. Before: the end of a longer old file stayed behind the new bytes.
#[test]
fn a_file_that_is_opened_by_a_link_of_proc_has_the_bytes_and_no_others() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "out", &pattern(1, 10_000));
    let file = File::open(&path).unwrap();
    let name = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
    for len in [20_000, 100, 0] {
        let bytes = pattern(2, len);
        let draft = draft_of(Draft::options(), name.as_ref(), &bytes).unwrap();
        draft.commit().unwrap();
        assert_same(&fs::read(&path).unwrap(), &bytes, len);
    }
}

#[test]
fn a_descriptor_of_a_file_is_written_at_its_offset() {
    let dir = temp_dir();
    let path = dir.path().join("out");
    let mut out = File::create(&path).unwrap();
    out.write_all(b"before ").unwrap();
    let name = format!("/dev/fd/{}", out.as_raw_fd());
    draft_of(Draft::options(), name.as_ref(), b"between")
        .unwrap()
        .commit()
        .unwrap();
    out.write_all(b" after").unwrap();
    assert_eq!(out.stream_position().unwrap(), 20);
    assert_eq!(fs::read(&path).unwrap(), b"before between after");
}

#[test]
fn a_descriptor_that_cannot_be_written_to_is_an_error_of_create() {
    let (reader, _writer) = pipe();
    let path = format!("/dev/fd/{}", reader.as_raw_fd());
    let error = Draft::create(&path, 1).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error}");
    let error = Draft::create("/dev/fd/12345", 1).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
}
