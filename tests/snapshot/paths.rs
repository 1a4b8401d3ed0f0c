//! Paths that name no readable file, and strange ones that do.

use crate::support::bytes::assert_same;
use crate::support::child::{argument, scenario};
use crate::support::user::{become_nobody, may_be_nobody};
use crate::support::{file_with, skip, temp_dir};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use stillmap::{Error, Snapshot};

#[test]
fn missing() {
    let dir = temp_dir();
    let path = dir.path().join("missing");
    for error in [
        stillmap::Snapshot::open(&path).unwrap_err(),
        stillmap::Snapshot::open_or_stdin(&path).unwrap_err(),
        Snapshot::options()
            .require_mapping(true)
            .open(&path)
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        let named =
            matches!(&error, Error::Os { operation: "open", path: Some(p), .. } if *p == path);
        assert!(named, "{error:?}");
    }
    assert_eq!(
        stillmap::Snapshot::open("").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let file = file_with(dir.path(), "file", b"x");
    let error = stillmap::Snapshot::open(file.join("below")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR), "{error:?}");
    let error = stillmap::Snapshot::open(dir.path().join("x".repeat(5000))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG), "{error:?}");
}

#[test]
fn directories() {
    let dir = temp_dir();
    for result in [
        stillmap::Snapshot::open(dir.path()),
        Snapshot::from_fd(File::open(dir.path()).unwrap()),
        Snapshot::options().offset(3).len(4).open(dir.path()),
        Snapshot::options().require_mapping(true).open(dir.path()),
        stillmap::Snapshot::open("/proc"),
        stillmap::Snapshot::open("/"),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::IsDirectory { path: Some(_), .. }),
            "{error:?}"
        );
        assert_eq!(error.kind(), ErrorKind::IsADirectory);
    }
}

#[test]
fn no_permission() {
    if !may_be_nobody() {
        return;
    }
    let mut child = scenario!(|| {
        become_nobody();
        let path = argument("FILE");
        let error = stillmap::Snapshot::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        assert!(error.to_string().contains("secret"), "{error}");
        // What a process that may read the file hands over is another matter: no reopening by name is needed.
        let given = std::io::stdin();
        assert_same(
            &Snapshot::from_fd(given).unwrap(),
            &[b'x'; 3 << 20],
            "handed over",
        );
    });
    let dir = temp_dir();
    let path = file_with(dir.path(), "secret", &[b'x'; 3 << 20]);
    let open = File::open(&path).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o0)).unwrap();
    child.stdin(open).argument("FILE", &path).succeed();
}

#[test]
fn bytes_that_are_no_text() {
    let dir = temp_dir();
    let name = OsStr::from_bytes(b"caf\xe9 \xff\n*");
    let path = dir.path().join(name);
    match std::fs::write(&path, "odd") {
        Ok(()) => assert_same(
            &stillmap::Snapshot::open(&path).unwrap(),
            b"odd",
            "not UTF-8",
        ),
        Err(error) => skip(format_args!("a name that is not UTF-8: {error}")),
    }
    let missing = dir.path().join(OsStr::from_bytes(b"\xff"));
    let error = stillmap::Snapshot::open(&missing).unwrap_err();
    assert!(
        matches!(&error, Error::Os { path: Some(p), .. } if *p == missing),
        "{error:?}"
    );

    let nul = dir.path().join(OsStr::from_bytes(b"a\0b"));
    std::fs::write(dir.path().join("a"), "not this one").unwrap();
    let error = stillmap::Snapshot::open(nul).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
}

#[test]
fn symbolic_links() {
    let dir = temp_dir();
    let target = file_with(dir.path(), "target", b"bytes");
    let (link, dangling, circle) = (
        dir.path().join("l"),
        dir.path().join("d"),
        dir.path().join("c"),
    );
    symlink(target, &link).unwrap();
    symlink("nowhere", &dangling).unwrap();
    symlink(&circle, &circle).unwrap();
    assert_same(&stillmap::Snapshot::open(link).unwrap(), b"bytes", "link");
    assert_eq!(
        stillmap::Snapshot::open(dangling)
            .unwrap_err()
            .raw_os_error(),
        Some(libc::ENOENT)
    );
    assert_eq!(
        stillmap::Snapshot::open(circle).unwrap_err().raw_os_error(),
        Some(libc::ELOOP)
    );
}

#[test]
fn the_root_crate_doors_are_the_same() {
    let want = std::fs::read("Cargo.toml").unwrap();
    assert_same(
        &stillmap::Snapshot::open("Cargo.toml").unwrap(),
        &want,
        "open",
    );
    assert_same(
        &stillmap::Snapshot::open_or_stdin(Path::new("Cargo.toml")).unwrap(),
        &want,
        "or stdin",
    );
    assert_same(
        &Snapshot::open(String::from("Cargo.toml")).unwrap(),
        &want,
        "String",
    );
}
