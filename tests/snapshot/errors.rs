//! The messages of errors, and their conversion.

use crate::support::pipe::pipe;
use crate::support::{file_with, temp_dir};
use std::error::Error as _;
use std::io::{self, ErrorKind};
use std::path::Path;
use stillmap::{Error, Snapshot};

/// One of every kind that a snapshot can give, with what its message has to name.
fn every_error(dir: &Path) -> Vec<(Error, &'static str)> {
    let path = file_with(dir, "victim", &[1; 100]);
    let (reader, writer) = pipe();
    drop(writer);
    let missing = dir.join("missing");
    vec![
        (stillmap::Snapshot::open(missing).unwrap_err(), "missing"),
        (
            stillmap::Snapshot::open(dir.join("victim/below")).unwrap_err(),
            "below",
        ),
        (stillmap::Snapshot::open(dir).unwrap_err(), "stillmap-test-"),
        (
            stillmap::Snapshot::open("/proc/self/mem").unwrap_err(),
            "mem",
        ),
        (
            Snapshot::options().offset(101).open(&path).unwrap_err(),
            "101",
        ),
        (
            Snapshot::options()
                .size_limit(5)
                .open("/dev/zero")
                .unwrap_err(),
            "/dev/zero",
        ),
        (
            Snapshot::options()
                .require_mapping(true)
                .from_fd(reader)
                .unwrap_err(),
            "pipe",
        ),
        (
            Snapshot::from_fd(std::fs::File::create(dir.join("write-only")).unwrap()).unwrap_err(),
            "write-only",
        ),
        (stillmap::Anonymous::new(usize::MAX).unwrap_err(), ""),
        (
            stillmap::Anonymous::options()
                .fixed_address(1)
                .allocate(1)
                .unwrap_err(),
            "0x1",
        ),
    ]
}

#[test]
fn messages_name_what_was_tried_and_leave_the_cause_to_source() {
    let dir = temp_dir();
    for (error, named) in every_error(dir.path()) {
        let message = error.to_string();
        assert!(
            message.contains(named),
            "{message:?} does not name {named:?}"
        );
        assert!(
            !message.is_empty() && !message.contains('\n'),
            "{message:?}"
        );
        assert!(
            !message.ends_with('.') && !message.starts_with(char::is_uppercase),
            "{message:?}"
        );
        if let Error::Os {
            operation: call, ..
        } = &error
        {
            assert!(message.contains(call), "{message:?} does not name {call:?}");
            let source = error.source().expect("a cause");
            assert!(
                !message.contains(&source.to_string()),
                "{message:?} repeats its cause"
            );
            assert!(!message.contains("os error"), "{message:?}");
            let source = source.downcast_ref::<io::Error>().expect("an io::Error");
            assert_eq!(source.raw_os_error(), error.raw_os_error());
        }
    }
}

#[test]
fn becoming_an_io_error_keeps_kind_and_errno() {
    let dir = temp_dir();
    for (error, _) in every_error(dir.path()) {
        let (kind, errno, debug) = (error.kind(), error.raw_os_error(), format!("{error:?}"));
        let io = io::Error::from(error);
        assert_eq!(io.kind(), kind, "{debug}");
        let kept = Error::downcast_ref(&io).and_then(Error::raw_os_error);
        assert_eq!(kept, errno, "{debug}");
        assert_ne!(kind, ErrorKind::Other, "{debug}");
    }
}

#[test]
fn a_function_of_std_can_pass_it_on() {
    fn inner() -> io::Result<usize> {
        Ok(stillmap::Snapshot::open("/no/such/file")?.len())
    }
    assert_eq!(inner().unwrap_err().kind(), ErrorKind::NotFound);
    fn boxed() -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        Ok(stillmap::Snapshot::open("/no/such/file")?.len())
    }
    assert!(boxed().unwrap_err().downcast_ref::<Error>().is_some());
    fn crosses<T: Send + Sync + 'static>() {}
    crosses::<Error>();
}

/// Within a chain that is printed whole, each thing stands once.
#[test]
fn a_chain_says_everything_once() {
    let error = stillmap::Snapshot::open("/no/such/file").unwrap_err();
    let mut chain = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push(cause.to_string());
        source = cause.source();
    }
    let chain = chain.join(": ");
    assert_eq!(chain.matches("/no/such/file").count(), 1, "{chain}");
    assert_eq!(chain.matches("No such file").count(), 1, "{chain}");
}
