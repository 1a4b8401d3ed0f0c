//! Inputs without offsets: pipes, FIFOs, sockets, terminals.

use crate::sizes::{assert_snapshot, assert_snapshot_from, interesting_sizes};
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::pipe::{
    feed, feed_messages, feed_slowly, make_fifo, messages_socket, pipe, pipe_with, terminal,
};
use crate::support::temp_dir;
use std::fs::File;
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use stillmap::{Backing, Error, Snapshot};

#[test]
fn pipes_of_every_size() {
    for size in interesting_sizes() {
        let bytes = pattern(1, size);
        let (reader, writer) = pipe();
        let writing = feed(writer, bytes.clone());
        let snapshot = Snapshot::from_fd(&reader).unwrap();
        assert_snapshot(&snapshot, &bytes, format_args!("{size} through a pipe"));
        assert_eq!(snapshot.backing(), Backing::Memory);
        writing.join().unwrap();
    }
}

#[test]
fn a_large_pipe() {
    let bytes = pattern(2, (40 << 20) + 7);
    let (reader, writer) = pipe();
    let writing = feed(writer, bytes.clone());
    assert_snapshot(&Snapshot::from_fd(reader).unwrap(), &bytes, "40 MiB");
    writing.join().unwrap();
}

#[test]
fn a_pipe_with_a_slow_writer_and_short_writes() {
    let chunks: Vec<Vec<u8>> = [1, 1, 4095, 4096, 4097, 1, 63, 65536, 65537, 200_000, 3, 7]
        .into_iter()
        .cycle()
        .take(60)
        .enumerate()
        .map(|(i, len)| pattern(i as u64, len))
        .collect();
    let all = chunks.concat();
    let (reader, writer) = pipe();
    let writing = feed_slowly(writer, chunks);
    assert_snapshot(
        &Snapshot::from_fd(&reader).unwrap(),
        &all,
        "in short writes",
    );
    writing.join().unwrap();
}

#[test]
fn a_non_blocking_pipe_is_waited_for() {
    let chunks: Vec<_> = (0..40).map(|i| pattern(i, 3000 * i as usize)).collect();
    let all = chunks.concat();
    let (reader, writer) = pipe_with(libc::O_CLOEXEC | libc::O_NONBLOCK);
    // The flag belongs to the description: take it off the writer's end, which has one of its own.
    // SAFETY: plain numbers.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, 0) };
    let writing = feed_slowly(writer, chunks);
    assert_snapshot(&Snapshot::from_fd(&reader).unwrap(), &all, "non-blocking");
    // SAFETY: plain numbers.
    let flags = unsafe { libc::fcntl(reader.as_raw_fd(), libc::F_GETFL) };
    assert_ne!(flags & libc::O_NONBLOCK, 0, "others share this flag");
    writing.join().unwrap();
}

#[test]
fn an_empty_pipe_and_a_pipe_without_writer() {
    let (reader, writer) = pipe();
    drop(writer);
    assert_snapshot(&Snapshot::from_fd(&reader).unwrap(), b"", "empty pipe");
    assert_snapshot(&Snapshot::from_fd(&reader).unwrap(), b"", "again");
}

#[test]
fn a_fifo_by_its_path() {
    let dir = temp_dir();
    let path = dir.path().join("fifo");
    make_fifo(&path);
    let bytes = pattern(3, 300_000);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            // Waits for the reader, as the reader waits for it.
            File::create(&path).unwrap().write_all(&bytes).unwrap();
        });
        assert_snapshot(&stillmap::Snapshot::open(&path).unwrap(), &bytes, "FIFO");
    });
}

#[test]
fn sockets() {
    let bytes = pattern(4, 1_500_000);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| {
            theirs.write_all(&bytes).unwrap();
            theirs.shutdown(Shutdown::Write).unwrap();
        });
        assert_snapshot(&Snapshot::from_fd(&ours).unwrap(), &bytes, "unix socket");
    });

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::scope(|threads| {
        threads.spawn(|| TcpStream::connect(address).unwrap().write_all(&bytes));
        let (ours, _) = listener.accept().unwrap();
        assert_snapshot(&Snapshot::from_fd(&ours).unwrap(), &bytes, "TCP");
    });
}

#[test]
fn what_cannot_be_read_from_a_socket_is_an_error() {
    let dir = temp_dir();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let error = stillmap::Snapshot::open(&path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENXIO), "{error:?}");
    // Not connected.
    let error = Snapshot::from_fd(&listener).unwrap_err();
    assert!(error.raw_os_error().is_some(), "{error:?}");
}

/// A read with too little room loses the rest of a message: `cat` always has room for a large one.
#[test]
fn what_keeps_messages_apart_loses_no_byte() {
    let messages: Vec<_> = (0..100).map(|i| pattern(i, 9_000 + i as usize)).collect();
    let (ours, theirs) = messages_socket();
    let writing = feed_messages(theirs, messages.clone());
    let got = Snapshot::from_fd(&ours).unwrap();
    writing.join().unwrap();
    assert_snapshot(&got, &messages.concat(), "SOCK_SEQPACKET");

    let large: Vec<_> = (0..40).map(|i| pattern(i, 60_000)).collect();
    let (ours, theirs) = messages_socket();
    let writing = feed_messages(theirs, large.clone());
    let got = Snapshot::from_fd(&ours).unwrap();
    writing.join().unwrap();
    assert_snapshot(&got, &large.concat(), "large messages");

    let packets: Vec<_> = (0..300).map(|i| pattern(i, 3_000 + i as usize)).collect();
    let (reader, writer) = pipe_with(libc::O_CLOEXEC | libc::O_DIRECT);
    let writing = feed_messages(writer, packets.clone());
    let got = Snapshot::from_fd(&reader).unwrap();
    writing.join().unwrap();
    assert_snapshot(&got, &packets.concat(), "pipe in packet mode");
}

/// In a child, since a reader that does not see the end of a terminal's input waits forever.
#[test]
fn a_terminal_until_its_end_of_file_key() {
    scenario!(|| {
        let (master, slave) = match terminal() {
            Ok(pair) => pair,
            Err(error) => return crate::support::skip(format_args!("no terminal: {error}")),
        };
        let mut keys = File::from(master.try_clone().unwrap());
        keys.write_all(b"first line\nsecond\n\x04").unwrap();
        let snapshot = Snapshot::from_fd(&slave).unwrap();
        assert_same(&snapshot, b"first line\nsecond\n", "terminal");
        // The end of a terminal is no end: what is typed next is read next.
        keys.write_all(b"third\n\x04").unwrap();
        assert_same(&Snapshot::from_fd(&slave).unwrap(), b"third\n", "after it");
        // In the middle of a line the key only sends what is there; the second one ends the input.
        keys.write_all(b"half\x04\x04").unwrap();
        assert_same(
            &Snapshot::from_fd(&slave).unwrap(),
            b"half",
            "without newline",
        );
    })
    .succeed();
}

#[test]
fn windows_of_a_stream_are_counted_from_where_it_is() {
    let bytes = pattern(5, 700_000);
    let through_pipe = |offset: u64, len: Option<usize>| {
        let (reader, writer) = pipe();
        let writing = feed(writer, bytes.clone());
        let mut options = Snapshot::options().offset(offset);
        if let Some(len) = len {
            options = options.len(len);
        }
        let result = options.from_fd(&reader);
        drop(reader);
        writing.join().unwrap();
        result
    };
    for (offset, len) in [
        (0, Some(10)),
        (3, Some(500_000)),
        (699_999, None),
        (700_000, None),
        (650_000, Some(50_000)),
    ] {
        let from = offset as usize;
        let want = &bytes[from..from + len.unwrap_or(bytes.len() - from)];
        let got = through_pipe(offset, len).unwrap();
        assert_snapshot_from(
            from,
            &got,
            want,
            format_args!("{len:?} from {offset} of a pipe"),
        );
    }
    for (offset, len) in [
        (700_001, None),
        (0, Some(700_001)),
        (699_999, Some(2)),
        (u64::MAX, None),
        (1, Some(usize::MAX)),
    ] {
        let error = through_pipe(offset, len).unwrap_err();
        assert!(
            matches!(error, Error::OutOfBounds { .. } | Error::TooLarge { .. }),
            "{len:?} from {offset}: {error:?}"
        );
    }
}

#[test]
fn a_stream_cannot_be_mapped() {
    let (reader, writer) = pipe();
    drop(writer);
    let error = Snapshot::options()
        .require_mapping(true)
        .from_fd(reader.as_fd())
        .unwrap_err();
    assert!(matches!(error, Error::NotMappable { .. }), "{error:?}");
    assert!(error.to_string().contains("pipe"), "{error}");
}

/// A FIFO that is not waited for, and a writer that comes between read(2) and poll(2). Before: the bytes of the first were
/// not read, and those of the second were lost.
#[test]
fn a_writer_that_comes_after_the_read() {
    use crate::support::refuse::{POLL, Verdict, intercept};

    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("fifo");
        make_fifo(&path);
        let name = path.clone();
        let mut writers = Vec::new();
        intercept(POLL, (0, 0, 0), move |_| {
            let mut writer = File::options().write(true).open(&name).unwrap();
            if writers.is_empty() {
                writer.write_all(b"late").unwrap();
                writers.push(File::open("/dev/null").unwrap());
            } else {
                writers.push(writer);
            }
            Verdict::Continue
        });
        let options = Snapshot::options().size_limit(100);
        assert_same(&options.open(&path).unwrap(), b"late", "first");

        let mut writer = File::options().read(true).write(true).open(&path).unwrap();
        writer.write_all(b"early").unwrap();
        let mut writer = Some(writer);
        let early = options.progress(|_, _| drop(writer.take())).open(&path);
        assert_same(&early.unwrap(), b"early", "second");
    })
    .succeed();
}
