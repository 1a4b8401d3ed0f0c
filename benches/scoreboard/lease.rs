//! Read leases: how long a writer waits for a snapshot to be frozen, and a scan of a file that is not in memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use stillmap::Backing;

use crate::bare::Bare;
use crate::files::Files;
use crate::machine::touch_free_memory;
use crate::measure::{Board, Sample, Unit, Workload};
use crate::scan::scan;
use crate::size;

const ROOM: &str = "lease";
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const PREAD: &str = "pread into fresh huge pages";
const DIRECT: [&str; 2] = ["O_DIRECT, 2 of 4 MiB", "O_DIRECT, 16 of 256 KiB"];

pub fn measure(board: &mut Board) -> io::Result<()> {
    for size in [16 * MIB, 64 * MIB, 256 * MIB, GIB] {
        let freeze = format!("a writer's wait for {}", size::name(size));
        if board.wants(ROOM, &freeze, size) {
            let files = Files::create(size, 1)?;
            let path = &files.paths()[0];
            // For the first round, too: a copy that outlasts fs.lease-break-time ends the process.
            touch_free_memory(3 * size as usize);
            if freezes_into_memory(path)? {
                board.measure(wait(freeze, size, path))
            } else {
                eprintln!("{ROOM}: {freeze}: skipped: not leased and copied here")
            }
        }
        let cold = format!("cold scan of {}", size::name(size));
        if board.wants(ROOM, &cold, size) {
            let files = Files::create(size, 1)?;
            let path = &files.paths()[0];
            match open_direct(path).and_then(|_| become_cold(path)) {
                Ok(()) => board.measure(scan_cold(cold, size, path)),
                Err(error) => eprintln!("{ROOM}: {cold}: skipped: {error}"),
            }
        }
    }
    Ok(())
}

/// False where there are no leases, or where files can be cloned.
fn freezes_into_memory(path: &Path) -> io::Result<bool> {
    let bytes = stillmap::Snapshot::open(path)?;
    let leased = bytes.backing() == Backing::Leased;
    OpenOptions::new().write(true).open(path)?;
    Ok(leased && bytes.backing() == Backing::Memory)
}

fn wait(name: String, size: u64, path: &Path) -> Workload<'_> {
    let workload = Workload::new(ROOM, name, Unit::Rate(size))
        .stillmap("open for writing", move || {
            let bytes = stillmap::Snapshot::open(path).expect("Snapshot::open");
            assert_eq!(bytes.backing(), Backing::Leased);
            // It was read: its pages are mapped, and have to be replaced.
            let sum = scan(&bytes);
            let start = Instant::now();
            let writer = OpenOptions::new().write(true).open(path);
            let time = start.elapsed();
            drop(writer.expect("open for writing"));
            assert_eq!(bytes.backing(), Backing::Memory);
            assert_eq!(scan(&bytes), sum, "the bytes changed");
            Sample::new(time, 1).check(sum)
        })
        .limit(PREAD, move || {
            let file = File::open(path).expect("open");
            let start = Instant::now();
            let mut memory = Bare::map(size as usize, true);
            file.read_exact_at(&mut memory, 0).expect("pread");
            Sample::new(start.elapsed(), 1).check(scan(&memory))
        });
    match size < 64 * MIB {
        true => workload,
        // The writer waits no more than 1.2 times as long, wakeups of the lease threads included.
        false => workload.claim(1.0 / 1.2, PREAD),
    }
}

fn scan_cold(name: String, size: u64, path: &Path) -> Workload<'_> {
    let cold = move |read: &dyn Fn() -> u64| {
        become_cold(path).expect("a file that is not in the page cache");
        Sample::of(1, read)
    };
    let direct =
        |threads, step: u64| move || cold(&|| scan_direct(path, size, threads, step as usize));
    let workload = Workload::new(ROOM, name, Unit::Rate(size))
        .stillmap("Snapshot::open", move || {
            cold(&|| scan(&stillmap::Snapshot::open(path).expect("Snapshot::open")))
        })
        .peer("std::fs::read", move || {
            cold(&|| scan(&std::fs::read(path).expect("read")))
        })
        .peer("memmap2 map", move || {
            cold(&|| {
                let file = File::open(path).expect("open");
                // SAFETY: the file belongs to this program, which leaves it alone while it is mapped.
                scan(&unsafe { memmap2::Mmap::map(&file) }.expect("map"))
            })
        })
        .limit(DIRECT[0], direct(2, 4 * MIB))
        .limit(DIRECT[1], direct(16, MIB / 4));
    if size < 256 * MIB {
        workload
    } else {
        workload.claim(0.95, DIRECT[0]).claim(0.95, DIRECT[1])
    }
}

/// Drops a file from the page cache, and checks that no page is left.
fn become_cold(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    let mut warm = 0;
    // Pages that are being read stay, so it is tried again.
    for _ in 0..100 {
        // SAFETY: no pointer is involved.
        let error =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        warm = pages_in_memory(&file)?;
        if warm == 0 {
            return Ok(());
        }
        thread::yield_now();
    }
    Err(io::Error::other(format!("{warm} pages stay in memory")))
}

fn pages_in_memory(file: &File) -> io::Result<usize> {
    // SAFETY: the file belongs to this program, which leaves it alone while it is mapped.
    let map = unsafe { memmap2::Mmap::map(file) }?;
    // A page may be larger, and the answer shorter then.
    let mut resident = vec![0_u8; map.len().div_ceil(4 << 10)];
    // SAFETY: the mapping is alive, and there is a byte for each of its pages.
    let done = unsafe { libc::mincore(map.as_ptr() as *mut _, map.len(), resident.as_mut_ptr()) };
    match done {
        0 => Ok(resident.iter().filter(|&&page| page & 1 != 0).count()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn open_direct(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT).open(path)
}

/// The device kept busy: while one thread scans what it read, the others read.
fn scan_direct(path: &Path, size: u64, threads: usize, step: usize) -> u64 {
    let file = open_direct(path).expect("O_DIRECT");
    let next = AtomicU64::new(0);
    let sum = AtomicU64::new(0);
    let read = || {
        // Aligned to a page, as O_DIRECT wants it.
        let mut buffer = Bare::map(step, true);
        loop {
            let at = next.fetch_add(step as u64, Ordering::Relaxed);
            if at >= size {
                break;
            }
            let n = file.read_at(&mut buffer, at).expect("pread");
            assert_eq!(n as u64, size.min(at + step as u64) - at);
            sum.fetch_add(scan(&buffer[..n]), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(read);
        }
    });
    sum.into_inner()
}
