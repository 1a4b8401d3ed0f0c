//! The lease of an edited file is lost while memory is short: its bytes go to disk, and no process is killed.

use crate::support::break_time::BreakTime;
use crate::support::child::{argument, fork, report, scenario};
use crate::support::control_group::{ControlGroup, join};
use crate::support::exclusive::{open, system};
use crate::support::pipe::pipe;
use crate::support::{file_with, kernel};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use stillmap::{Backing, Error, Exclusive};

/// What the group of the process may use, and a file that is larger.
const MEMORY: u64 = 16 << 20;
const LEN: usize = 20 << 20;

/// Seconds of the break time: a quarter of them is left for the copy.
const BREAK_TIME: u32 = 16;

#[test]
fn what_does_not_fit_into_the_memory_of_the_group_goes_to_disk() {
    scenario!(|| {
        let (Some(_time), Some(group)) =
            (BreakTime::of(BREAK_TIME), ControlGroup::with_memory(MEMORY))
        else {
            return;
        };
        let Some(system) = system("ext4", 256 << 20) else {
            return;
        };
        let path = file_with(system.path(), "file", &vec![1; LEN]);
        File::open(&path).unwrap().sync_all().unwrap();
        let (theirs, ours) = pipe();
        let child = fork(|| {
            join(group.path());
            let mut file = open(&path);
            let address = file.as_ptr();
            for page in file.chunks_mut(4096) {
                page[7] = 2;
            }
            File::from(ours.try_clone().unwrap())
                .write_all(b"x")
                .unwrap();
            while file.backing() == Backing::Leased {
                std::thread::yield_now();
            }
            assert_eq!(file.backing(), Backing::Disk);
            assert_eq!(file.as_ptr(), address);
            // Ours alone from here on.
            for page in file.chunks_mut(4096) {
                assert_eq!((page[6], page[7]), (1, 2));
                page[8] = 3;
            }
            assert!(file.chunks(4096).all(|page| page[8] == 3));
            assert!(matches!(file.flush(), Err(Error::LeaseLost { .. })));
            // A child of the process does not share it.
            let ended = stillmap::fork::scope(|scope| {
                let child = scope.spawn(|| file[0] = 4);
                child.unwrap().wait().unwrap().signal()
            });
            assert_eq!((ended.unwrap(), file[0]), (Some(libc::SIGSEGV), 1));
            assert!(matches!(file.close(), Err(Error::LeaseLost { .. })));
        });
        File::from(theirs).read_exact(&mut [0]).unwrap();
        let reader = File::open(&path).unwrap();
        let mut page = [0; 4096];
        for at in (0..LEN).step_by(4096) {
            reader.read_exact_at(&mut page, at as u64).unwrap();
            assert_eq!(page[6..9], [1, 2, 1], "at {at}");
        }
        child.succeed();
        drop(reader);
        // The process is gone, and with it the copy.
        open(&path).close().unwrap();
    })
    .succeed();
}

#[test]
fn without_memory_and_disk_the_process_ends_with_a_message() {
    let mut child = scenario!(|| {
        let path = PathBuf::from(argument("PATH"));
        let mut file = open(&path);
        join(PathBuf::from(argument("GROUP")));
        // SAFETY: takes numbers only.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        kernel::limit(libc::RLIMIT_FSIZE, 0);
        file[0] = 2;
        report("holding");
        // Blocks until this process is gone.
        let _ = File::open(&path);
        report("let in");
    });
    let (Some(_time), Some(group)) = (BreakTime::of(2), ControlGroup::with_memory(MEMORY)) else {
        return;
    };
    let Some(system) = system("ext4", 256 << 20) else {
        return;
    };
    let path = file_with(system.path(), "file", &vec![1; LEN]);
    File::open(&path).unwrap().sync_all().unwrap();
    child
        .argument("PATH", &path)
        .argument("GROUP", group.path());
    let outcome = child.run();
    assert_eq!(outcome.reports(), ["holding"]);
    assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{outcome:?}");
    let name = path.display().to_string();
    assert!(outcome.stderr.contains(&name), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("to memory or to disk"),
        "{}",
        outcome.stderr
    );
    // The stores made before are there.
    assert_eq!(fs::read(&path).unwrap()[..2], [2, 1]);
}

/// The window is copied, and not what is reserved behind it; the file is not kept open.
#[test]
fn a_window_with_room_to_grow_goes_on_without_its_file() {
    scenario!(|| {
        let Some(_time) = BreakTime::of(2) else {
            return;
        };
        for (kind, system) in crate::support::exclusive::systems() {
            let path = system.path().join("file");
            File::create(&path).unwrap().set_len(5 << 30).unwrap();
            // More addresses than the machine has memory.
            let options = Exclusive::options().offset((5 << 30) - 5000);
            let options = options.reserve(1 << (usize::BITS / 2 + 6));
            let mut window = loop {
                match options.open(&path) {
                    Err(Error::Busy { .. }) => {}
                    other => break other.unwrap(),
                }
            };
            window.fill(7);
            window.resize(6000).unwrap();
            let reader = File::open(&path).unwrap();
            let mut bytes = [1; 6001];
            reader.read_exact_at(&mut bytes, (5 << 30) - 5001).unwrap();
            assert_eq!((bytes[0], &bytes[1..5001]), (0, &[7; 5000][..]), "{kind}");
            assert_eq!(bytes[5001..], [0; 1000]);
            drop(reader);
            assert_eq!(window.backing(), Backing::Memory);
            window[5999] = 8;
            let second = Exclusive::options().len(1);
            while let Err(error) = second.open(&path) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
            }
            assert_eq!((window[4999], window[5999]), (7, 8), "{kind}");
            let maps = fs::read_to_string("/proc/self/maps").unwrap();
            assert!(!maps.contains(path.to_str().unwrap()), "{maps}");
            assert!(matches!(window.close(), Err(Error::LeaseLost { .. })));
        }
    })
    .succeed();
}
