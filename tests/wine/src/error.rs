//! Errors: kinds, codes, paths and texts.

use crate::support::*;
use crate::*;
use std::io::{self, ErrorKind};

#[test]
fn an_error_names_what_failed_the_path_and_the_code() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing");
    let error = Snapshot::open(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.path(), Some(&*path));
    // ERROR_FILE_NOT_FOUND.
    assert_eq!(error.raw_os_error(), Some(2));
    assert!(error.to_string().starts_with("open failed on "));
    let error = io::Error::from(error);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing"));
    assert!(matches!(
        Error::downcast_ref(&error),
        Some(Error::Os { .. })
    ));
}

#[test]
fn a_directory_is_one_for_every_type() {
    let folder = tempfile::tempdir().unwrap();
    let is_directory = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::IsADirectory);
        assert_eq!(error.raw_os_error(), None);
        matches!(error, Error::IsDirectory { .. })
    };
    assert!(is_directory(Snapshot::open(folder.path()).unwrap_err()));
    assert!(is_directory(Private::open(folder.path()).unwrap_err()));
    assert!(is_directory(Exclusive::open(folder.path()).unwrap_err()));
}

#[test]
fn a_name_that_cannot_be_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a\0b", "a*b", "a?b", "a\"b"] {
        let path = folder.path().join(name);
        assert!(Snapshot::open(&path).is_err(), "{name:?}");
        let committed = Draft::create(&path, 1).map(|draft| draft.commit().is_ok());
        assert!(!matches!(committed, Ok(true)), "{name:?}");
    }
    assert!(names(&folder).is_empty());
    assert!(Snapshot::open("").is_err());
}

#[test]
fn what_is_refused_has_the_same_kind_as_elsewhere() {
    let (_folder, path) = large_file();
    let kind = |error: Error| error.kind();
    let options = Snapshot::options();
    let limited = options.clone().size_limit(1).open(&path).unwrap_err();
    assert_eq!(kind(limited), ErrorKind::FileTooLarge);
    let outside = options.clone().offset(u64::MAX).open(&path).unwrap_err();
    assert_eq!(kind(outside), ErrorKind::InvalidInput);
    let unsupported = fork::scope(|_| ()).unwrap_err();
    assert_eq!(kind(unsupported), ErrorKind::Unsupported);
    let writer = open_for_writing(&path).unwrap();
    assert_eq!(
        kind(Exclusive::open(&path).unwrap_err()),
        ErrorKind::ResourceBusy
    );
    drop(writer);
    let exclusive = Exclusive::open(&path).unwrap();
    let error = Snapshot::open(&path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(SHARING_VIOLATION));
    drop(exclusive);
}
