//! A resize that takes longer than the break time, and a break time that is changed during a break.

use crate::support::break_time::BreakTime;
use crate::support::child::scenario;
use crate::support::exclusive::{any_system, open, system};
use crate::support::file_with;
use crate::support::refuse::{Refusal, Verdict, intercept, refuse_if};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;
use stillmap::{Backing, Error, Exclusive};

const BEFORE: [u8; 4096] = [5; 4096];

fn wait_for_waiter(file: &Exclusive) {
    while !file.has_waiter() {
        thread::yield_now();
    }
}

/// Without fallocate(2), and on a disk that takes 300 ms for each write of zeros. Before: the process was aborted.
#[test]
fn a_resize_ends_when_an_opener_has_waited_for_long() {
    scenario!(|| {
        let (Some(_time), Some(system)) = (BreakTime::of(8), any_system()) else {
            return;
        };
        let path = file_with(system.path(), "file", &BEFORE);
        let mut file = open(&path);
        refuse_if(Refusal {
            call: libc::SYS_fallocate,
            errno: libc::EOPNOTSUPP,
            argument: None,
        });
        // A slow disk: each write of a multiple of 64 KiB takes this long. No order depends on it.
        intercept(libc::SYS_pwrite64, (2, 0xffff, 0), |_| {
            thread::sleep(Duration::from_millis(300));
            Verdict::Continue
        });
        let opener = thread::spawn({
            let path = path.clone();
            move || fs::read(path).unwrap()
        });
        wait_for_waiter(&file);
        let resized = file.resize(BEFORE.len() + (32 << 20));
        assert!(
            matches!(resized, Err(Error::LeaseLost { .. })),
            "{resized:?}"
        );
        assert!(opener.join().unwrap() == BEFORE);
        assert!(file[..] == BEFORE);
        assert_eq!(fs::metadata(&path).unwrap().len(), BEFORE.len() as u64);
    })
    .succeed();
}

/// Filling holes takes longer than the break time (a slow disk, a frozen file system). Before: what the opener had written
/// into one of them became zeros.
#[test]
fn what_an_opener_writes_while_holes_are_filled_stays() {
    scenario!(|| {
        let (Some(_time), Some(system)) = (BreakTime::of(1), system("ext4", 320 << 20)) else {
            return;
        };
        let path = system.path().join("sparse");
        File::create(&path).unwrap().set_len(192 << 20).unwrap();
        // They are filled in pieces of 64 MiB; the kernel lets the opener in before the second.
        let mut opener = Some(path.clone());
        intercept(libc::SYS_fallocate, (2, u32::MAX, 64 << 20), move |_| {
            if let Some(path) = opener.take() {
                let file = File::options().write(true).open(path).unwrap();
                file.write_all_at(&BEFORE, 8 << 20).unwrap();
            }
            Verdict::Continue
        });
        let file = open(&path);
        assert!(file[8 << 20..][..BEFORE.len()] == BEFORE);
    })
    .succeed();
}

/// Before: the new break time was taken for that of a lease that was broken already; the kernel let the opener in under
/// the `&mut [u8]`.
#[test]
fn a_break_time_that_is_raised_during_a_break() {
    scenario!(|| {
        let (Some(_time), Some(system)) = (BreakTime::of(8), any_system()) else {
            return;
        };
        let path = file_with(system.path(), "file", &BEFORE);
        let mut file = open(&path);
        let opener = thread::spawn({
            let path = path.clone();
            move || {
                let file = File::options().write(true).open(path).unwrap();
                file.write_all_at(&[6; 4096], 0).unwrap();
            }
        });
        wait_for_waiter(&file);
        fs::write("/proc/sys/fs/lease-break-time", "600").unwrap();
        opener.join().unwrap();
        assert!(file[..] == BEFORE);
        assert_ne!(file.backing(), Backing::Leased);
        file.fill(7);
        assert!(fs::read(&path).unwrap() == [6; 4096]);
    })
    .succeed();
}
