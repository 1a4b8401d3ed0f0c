//! Standard input, in child processes that have one of their own.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{argument, scenario};
use crate::support::kernel::offset_of;
use crate::support::pipe::{feed, pipe};
use crate::support::{file_with, temp_dir};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use stillmap::Snapshot;

#[test]
fn redirected_from_a_file_at_an_offset() {
    for size in [5_000, 700_000, 3 << 20] {
        for offset in [0, 1000, 4096, size] {
            let mut child = scenario!(|| {
                let snapshot = Snapshot::stdin().unwrap();
                let all = std::fs::read(argument("FILE")).unwrap();
                let offset: usize = argument("OFFSET").to_str().unwrap().parse().unwrap();
                assert_same(&snapshot, &all[offset..], "stdin");
                assert_eq!(offset_of(std::io::stdin()), all.len() as u64);
                assert_same(&Snapshot::stdin().unwrap(), b"", "at its end");
            });
            let dir = temp_dir();
            let path = file_with(dir.path(), "file", &pattern(1, size));
            let mut file = File::open(&path).unwrap();
            file.seek(SeekFrom::Start(offset as u64)).unwrap();
            child
                .stdin(file.try_clone().unwrap())
                .argument("FILE", &path)
                .argument("OFFSET", offset.to_string())
                .succeed();
            assert_eq!(offset_of(&file), size as u64, "what the next program sees");
        }
    }
}

#[test]
fn a_pipe_by_every_door() {
    for door in ["stdin", "options", "dash", "path", "dash option"] {
        let mut child = scenario!(|| {
            let snapshot = match argument("DOOR").as_bytes() {
                b"stdin" => stillmap::Snapshot::stdin(),
                b"options" => Snapshot::options().size_limit(1 << 30).stdin(),
                b"dash" => stillmap::Snapshot::open_or_stdin("-"),
                b"path" => stillmap::Snapshot::open("/dev/stdin"),
                _ => stillmap::Snapshot::open_or_stdin(argument("DASH")),
            };
            assert_same(&snapshot.unwrap(), &pattern(2, 300_000), "stdin");
        });
        let (reader, writer) = pipe();
        let writing = feed(writer, pattern(2, 300_000));
        child
            .stdin(reader)
            .argument("DOOR", door)
            .argument("DASH", "-")
            .succeed();
        // The child's command still holds the read end.
        drop(child);
        writing.join().unwrap();
    }
}

#[test]
fn a_file_named_dash_is_opened_by_open() {
    scenario!(|| {
        let dir = temp_dir();
        file_with(dir.path(), "-", b"a file");
        std::env::set_current_dir(dir.path()).unwrap();
        assert_same(&stillmap::Snapshot::open("-").unwrap(), b"a file", "open");
        assert_same(
            &stillmap::Snapshot::open_or_stdin("./-").unwrap(),
            b"a file",
            "./-",
        );
        assert_same(
            &stillmap::Snapshot::open_or_stdin("-").unwrap(),
            b"",
            "stdin is empty",
        );
    })
    .succeed();
}

#[test]
fn closed() {
    scenario!(|| {
        // SAFETY: no code reads from it in this process.
        unsafe { libc::close(0) };
        let error = Snapshot::stdin().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error:?}");
        // What is opened now gets the number 0 and must not be taken for stdin's data.
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", &pattern(3, 2 << 20));
        assert_same(
            &stillmap::Snapshot::open(path).unwrap(),
            &pattern(3, 2 << 20),
            "as number 0",
        );
        let error = stillmap::Snapshot::open_or_stdin("-").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF), "{error:?}");
    })
    .succeed();
}

#[test]
fn a_directory_or_a_write_only_file() {
    let mut child = scenario!(|| {
        let error = Snapshot::stdin().unwrap_err();
        let want = argument("WANT");
        assert_eq!(format!("{:?}", error.kind()).as_str(), want, "{error:?}");
    });
    let dir = temp_dir();
    let file = File::create(dir.path().join("file")).unwrap();
    child
        .stdin(File::open(dir.path()).unwrap())
        .argument("WANT", "IsADirectory")
        .succeed();
    let bad = std::io::Error::from_raw_os_error(libc::EBADF).kind();
    child
        .stdin(file)
        .argument("WANT", format!("{bad:?}"))
        .succeed();
}
