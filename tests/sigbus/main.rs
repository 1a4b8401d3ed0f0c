//! A file that loses pages under a `Shared`: an error on every thread, and no signal that kills the process.
#![allow(clippy::disallowed_methods)]

#[path = "../support/mod.rs"]
mod support;

mod handlers;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};
use stillmap::{Error, Shared, fork};
use support::child::{report, scenario};
use support::disk::LoopFs;
use support::pipe::pipe;
use support::{kernel, temp_dir};

const PAGE: usize = 4096;

fn is_faulted(result: Result<(), Error>) -> bool {
    match result {
        Ok(()) => false,
        Err(Error::PagesLost { .. }) => true,
        Err(other) => panic!("{other}"),
    }
}

fn created(path: &Path, pages: usize) -> Shared<[AtomicU8]> {
    let shared = Shared::<[AtomicU8]>::create_slice(path, pages * PAGE).unwrap();
    shared.write_at(0, &vec![7; pages * PAGE]).unwrap();
    shared
}

fn set_len(path: &Path, len: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(len).unwrap();
}

/// Another process, forked before there are threads, that truncates on command.
struct Other {
    say: File,
    hear: BufReader<File>,
}

impl Other {
    fn new() -> Self {
        let (commands, say) = pipe();
        let (hear, answers) = pipe();
        let (say, hear) = (File::from(say), BufReader::new(File::from(hear)));
        let other = Other { say, hear };
        // It ends when the pipe is closed.
        let _ = support::child::fork(|| {
            // SAFETY: the copy of our end, which no code uses there.
            unsafe { libc::close(other.say.as_raw_fd()) };
            for line in BufReader::new(File::from(commands)).lines() {
                let line = line.unwrap();
                let (len, path) = line.split_once(' ').unwrap();
                set_len(Path::new(path), len.parse().unwrap());
                writeln!(&File::from(answers.try_clone().unwrap())).unwrap();
            }
        });
        other
    }

    fn truncate(&mut self, path: &Path, len: usize) {
        writeln!(self.say, "{len} {}", path.display()).unwrap();
        self.hear.read_line(&mut String::new()).unwrap();
    }
}

/// Opens a file and makes it lose its pages: no signal is delivered, and every call reports it.
fn lose_a_file(path: &Path) {
    let shared = created(path, 2);
    set_len(path, 0);
    assert_eq!(shared[PAGE].load(Ordering::Relaxed), 0);
    assert!(is_faulted(shared.check_fault()));
}

fn assert_faulted(shared: &Shared<[AtomicU8]>) {
    let mut buf = [0; 1];
    assert!(is_faulted(shared.read_at(0, &mut buf)));
    assert!(is_faulted(shared.write_at(0, &buf)));
    assert!(is_faulted(shared.flush()));
    assert!(is_faulted(shared.start_writeback()));
    assert!(is_faulted(shared.check_fault()));
}

/// Reads (0), writes (1) or uses atomics (2) until the file has lost pages, or `stop`.
fn use_until_faulted(thread: usize, shared: &Shared<[AtomicU8]>, stop: &AtomicBool) {
    let mut buf = vec![0; 100];
    for turn in thread.. {
        let at = turn * 997 % (shared.len() - buf.len());
        let done = match thread {
            0 => shared.read_at(at, &mut buf),
            1 => shared.write_at(at, &[7; 100]),
            _ => {
                shared[at].fetch_or(1, Ordering::Relaxed);
                shared[shared.len() - 1 - at].load(Ordering::Relaxed);
                shared.read_at(at, &mut [])
            }
        };
        if is_faulted(done) || stop.load(Ordering::Relaxed) {
            break;
        }
    }
}

#[test]
fn truncated_under_threads_that_read_and_write() {
    scenario!(|| {
        let dir = temp_dir();
        let mut other = Other::new();
        let untouched = created(&dir.path().join("untouched"), 4);
        let mut before = None;
        for round in 0..2000_usize {
            if round == 100 {
                // The allocator and the threads have what they keep.
                before = Some(kernel::Holdings::now());
            }
            let path = dir.path().join("file");
            let pages = 1 + round % 7;
            let shared = created(&path, pages);
            let stop = AtomicBool::new(false);
            std::thread::scope(|s| {
                let work = [0, 1, 2].map(|thread: usize| {
                    let (shared, stop) = (&shared, &stop);
                    s.spawn(move || use_until_faulted(thread, shared, stop))
                });
                // To nothing; to a part of a page; to nothing and back, which need not be noticed.
                match round % 3 {
                    0 => other.truncate(&path, 0),
                    1 => other.truncate(&path, pages * PAGE - 1),
                    _ => {
                        other.truncate(&path, 0);
                        other.truncate(&path, pages * PAGE);
                    }
                }
                let noticed = is_faulted(shared.check_fault());
                assert!(noticed || round % 3 == 2, "round {round}");
                stop.store(!noticed, Ordering::Relaxed);
                if noticed {
                    // For good, and on every thread: the readers and writers end by themselves.
                    set_len(&path, 1 << 20);
                    s.spawn(|| assert_faulted(&shared)).join().unwrap();
                }
                // The end of the scope waits for the work, not for the threads.
                for thread in work {
                    thread.join().unwrap();
                }
            });
            if !is_faulted(shared.check_fault()) {
                // Then it is still the file.
                shared.write_at(0, &[9]).unwrap();
                assert_eq!(std::fs::read(&path).unwrap()[0], 9);
            }
            drop(shared);
            std::fs::remove_file(&path).unwrap();
        }
        let mut bytes = vec![0; 4 * PAGE];
        untouched.read_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, vec![7; 4 * PAGE]);
        before
            .unwrap()
            .assert_nothing_left("after 2000 truncated files");
    })
    .succeed();
}

#[test]
fn memory_of_a_lost_file_comes_back_with_the_drop() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        let shared = created(&path, 4096);
        set_len(&path, 0);
        for byte in shared.iter().step_by(PAGE) {
            byte.store(1, Ordering::Relaxed);
        }
        let start = shared.as_ptr() as usize;
        let private = kernel::smaps(start..start + shared.len(), "Anonymous");
        assert_eq!(private, 4096 * PAGE);
        drop(shared);
        assert_eq!(kernel::mapping_at(start), None);
    })
    .succeed();
}

#[test]
fn a_file_that_is_too_short_is_noticed_before_it_is_touched() {
    scenario!(|| {
        let dir = temp_dir();
        for (number, len) in [0, 1, PAGE, 2 * PAGE - 1].into_iter().enumerate() {
            let path = dir.path().join(number.to_string());
            let shared = created(&path, 2);
            shared.check_fault().unwrap();
            set_len(&path, len as u64);
            // Nothing was touched, and a blocked SIGBUS would kill.
            let mask = block_sigbus();
            assert!(is_faulted(shared.flush()), "{len}");
            unblock(mask);
            // Forever, though the file is long enough again.
            set_len(&path, 1 << 20);
            assert!(is_faulted(shared.read_at(0, &mut [0])));
            assert_eq!(shared[0].load(Ordering::Relaxed), 0);
        }
    })
    .succeed();
}

fn block_sigbus() -> libc::sigset_t {
    // SAFETY: zero is a valid set for these calls, which change it and the mask of this thread.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGBUS);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut old);
        old
    }
}

fn unblock(mask: libc::sigset_t) {
    // SAFETY: a set that came from the same call.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut()) };
}

#[test]
fn a_thread_that_blocks_sigbus_is_killed_by_the_kernel() {
    // This cannot be prevented (sigaction(2)); the documentation says so.
    let outcome = scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        let shared = created(&path, 1);
        set_len(&path, 0);
        std::fs::remove_dir_all(dir.path()).unwrap();
        block_sigbus();
        shared[0].load(Ordering::Relaxed);
    })
    .run();
    assert_eq!(outcome.signal(), Some(libc::SIGBUS));
}

#[test]
fn each_of_many_mappings_is_found() {
    scenario!(|| {
        if !kernel::may_open(300) {
            return;
        }
        let dir = temp_dir();
        let path = |n: usize| dir.path().join(n.to_string());
        let all: Vec<_> = (0..200).map(|n| created(&path(n), 2)).collect();
        for n in (0..200).step_by(3) {
            set_len(&path(n), 0);
            all[n][PAGE].store(1, Ordering::Relaxed);
        }
        for (n, shared) in all.iter().enumerate() {
            let mut byte = [0];
            let read = shared.read_at(0, &mut byte);
            assert_eq!(is_faulted(read), n % 3 == 0, "{n}");
            assert_eq!(byte[0], if n % 3 == 0 { 0 } else { 7 }, "{n}");
        }
    })
    .succeed();
}

#[test]
fn faults_beside_mappings_that_come_and_go_touch_nobody_else() {
    scenario!(|| {
        let dir = temp_dir();
        let files: Vec<PathBuf> = (0..3).map(|n| dir.path().join(n.to_string())).collect();
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            // Other memory at the address of a former mapping: it must never be replaced.
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut theirs = memmap2::MmapMut::map_anon(2 * PAGE).unwrap();
                    theirs.fill(5);
                    std::thread::yield_now();
                    let foreign = theirs.iter().enumerate().find(|(_, byte)| **byte != 5);
                    assert_eq!(foreign, None);
                }
            });
            let faulting: Vec<_> = files
                .iter()
                .map(|path| {
                    s.spawn(move || {
                        for _ in 0..2000 {
                            lose_a_file(path);
                            drop(created(path, 2));
                        }
                    })
                })
                .collect();
            let results: Vec<_> = faulting.into_iter().map(|t| t.join()).collect();
            stop.store(true, Ordering::Relaxed);
            assert!(results.iter().all(Result::is_ok));
        });
    })
    .succeed();
}

#[test]
fn a_fault_in_a_child_is_the_childs_alone() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        let shared = created(&path, 2);
        fork::scope(|s| {
            let child = s
                .spawn(|| {
                    set_len(&path, 0);
                    assert_eq!(shared[0].load(Ordering::Relaxed), 0);
                    assert!(is_faulted(shared.read_at(0, &mut [0])));
                    set_len(&path, 2 * PAGE as u64);
                })
                .unwrap();
            assert!(child.wait().unwrap().success());
            // The file is whole again, and we never missed a page.
            let mut byte = [1];
            shared.read_at(0, &mut byte).unwrap();
            assert_eq!(byte, [0]);
            shared.write_at(0, &[3]).unwrap();
            assert_eq!(std::fs::read(&path).unwrap()[0], 3);
        })
        .unwrap();
    })
    .succeed();
}

#[test]
fn a_disk_that_fills_up_under_a_sparse_file_is_a_fault() {
    let Some(disk) = LoopFs::new("tmpfs", 64 << 10) else {
        return;
    };
    scenario!(|| {
        let dir = PathBuf::from(support::child::argument("DIR"));
        let path = dir.join("sparse");
        File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let shared = Shared::<[AtomicU8]>::open_slice(&path).unwrap();
        shared.write_at(0, &[1; PAGE]).unwrap();
        assert!(is_faulted(shared.write_at(0, &vec![1; 1 << 20])));
    })
    .argument("DIR", disk.path())
    .succeed();
}

#[test]
fn a_received_memfd_that_can_shrink_is_guarded() {
    scenario!(|| {
        // SAFETY: the name is a C string, and the descriptor is new.
        let theirs: OwnedFd = unsafe {
            let fd = libc::memfd_create(c"theirs".as_ptr(), libc::MFD_CLOEXEC);
            std::os::fd::FromRawFd::from_raw_fd(fd)
        };
        let theirs = File::from(theirs);
        theirs.set_len(2 * PAGE as u64).unwrap();
        let received = theirs.try_clone().unwrap();
        let shared = Shared::<[AtomicU8]>::from_fd_slice(received).unwrap();
        shared.write_at(0, &vec![1; 2 * PAGE]).unwrap();
        theirs.set_len(0).unwrap();
        assert!(is_faulted(shared.read_at(PAGE, &mut [0])));
    })
    .succeed();
}

/// Attack "no mapping is left" (vm.max_map_count): the kernel refuses also a mapping that takes the place of another.
#[test]
fn a_lost_page_is_replaced_when_the_process_has_all_the_mappings_it_may_have() {
    scenario!(|| {
        let dir = temp_dir();
        let path = dir.path().join("file");
        let shared = created(&path, 3);
        let live = stillmap::Live::open(&path).unwrap();
        let _free = kernel::fill_mappings();
        let one_more = || {
            let (len, flags) = (2 * PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: new address space, that no other code touches.
            let at =
                unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, flags, -1, 0) };
            // SAFETY: as above; it cannot be merged with another.
            at != libc::MAP_FAILED && unsafe { libc::mprotect(at, PAGE, libc::PROT_NONE) } != 1
        };
        while one_more() {}
        File::create(&path).unwrap();
        assert_eq!(shared[PAGE].load(Ordering::Relaxed), 0);
        assert!(is_faulted(shared.check_fault()));
        assert!(is_faulted(live.read_at(PAGE, &mut [0]).map(drop)));
    })
    .succeed();
}
