//! Another process that opens the file is blocked.

use crate::support::child::scenario;
use crate::support::exclusive::{any_system, open, systems};
use crate::support::{file_with, kernel};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use stillmap::Exclusive;

#[test]
fn every_other_open_waits_or_fails_if_it_may_not_wait() {
    for (kind, system) in systems() {
        let path = file_with(system.path(), "file", b"old bytes");
        let mut file = open(&path);
        assert!(!file.has_waiter());
        for (read, write) in [(true, false), (false, true), (true, true)] {
            let mut options = File::options();
            options
                .read(read)
                .write(write)
                .custom_flags(libc::O_NONBLOCK);
            let refused = options.open(&path).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::WouldBlock, "{kind}");
        }
        assert!(file.has_waiter());
        let reader = thread::spawn({
            let path = path.clone();
            move || fs::read(path).unwrap()
        });
        file.copy_from_slice(b"NEW BYTES");
        file.close().unwrap();
        assert_eq!(reader.join().unwrap(), b"NEW BYTES", "{kind}");
    }
}

#[test]
fn names_may_change_meanwhile() {
    for (_, system) in systems() {
        let path = file_with(system.path(), "file", b"old");
        let mut file = open(&path);
        fs::rename(&path, system.path().join("other")).unwrap();
        fs::write(&path, b"another file").unwrap();
        assert!(!file.has_waiter());
        file.copy_from_slice(b"new");
        file.close().unwrap();
        assert_eq!(fs::read(system.path().join("other")).unwrap(), b"new");
        assert_eq!(fs::read(&path).unwrap(), b"another file");
    }
}

#[test]
fn nothing_is_left_of_thousands() {
    scenario!(|| {
        let Some(system) = any_system() else {
            return;
        };
        let path = file_with(system.path(), "file", &[1; 5000]);
        let cycle = || {
            let mut file = open(&path);
            file[0] ^= 1;
            file.resize(6000).unwrap();
            file.resize(5000).unwrap();
        };
        let refused = || {
            let _reader = File::open(&path).unwrap();
            assert!(Exclusive::open(&path).is_err());
        };
        cycle();
        let before = kernel::Holdings::now();
        (0..3000).for_each(|_| cycle());
        // Each of these waits a little before it is sure.
        (0..50).for_each(|_| refused());
        before.assert_nothing_left("3000 times");
    })
    .succeed();
}
