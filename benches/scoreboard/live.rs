//! A file that others write to: bytes copied out of its mapping beside memcpy, and a log that is followed while it grows.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;

use stillmap::Live;

use crate::files::{self, Files};
use crate::measure::{Board, Sample, Unit, Workload};
use crate::size;

const ROOM: &str = "live";

/// Bytes that are appended at once.
const PIECE: usize = 1 << 20;

pub fn measure(board: &mut Board) -> io::Result<()> {
    for len in [64_usize << 10, 64 << 20] {
        let name = format!("read_at of {}", size::name(len as u64));
        if board.wants(ROOM, &name, len as u64) {
            // One page more: at the very end of a file a read makes a system call.
            let files = Files::create(len as u64 + 4096 + 1, 1)?;
            board.measure(read_at(name, &files, len)?);
        }
    }
    let len = 256 << 20;
    let name = format!("{} followed while they are appended", size::name(len));
    if board.wants(ROOM, &name, len) {
        let dir = tempfile::tempdir_in(files::directory()?)?;
        board.measure(follow(name, &dir.path().join("log"), len));
    }
    Ok(())
}

fn read_at(name: String, files: &Files, len: usize) -> io::Result<Workload<'_>> {
    let path = &files.paths()[0];
    let live = Live::open(path)?;
    let file = File::open(path)?;
    #[expect(clippy::disallowed_types, reason = "the peer")]
    let options = memmap2::MmapOptions::new();
    // SAFETY: no code writes to the file.
    let map = unsafe { options.map(&file) }?;
    let (mut mine, mut theirs) = (vec![1; len], vec![1; len]);
    let n = ((64 << 20) / len).max(1);
    Ok(Workload::new(ROOM, name, Unit::Rate(len as u64))
        .stillmap("Live", move || {
            Sample::of(n, || {
                for _ in 0..n {
                    let done = live.read_at(black_box(0), black_box(&mut mine));
                    assert_eq!(done.expect("read_at"), len);
                }
                u64::from(mine[len - 1])
            })
        })
        .limit("memcpy from a mapping", move || {
            Sample::of(n, || {
                for _ in 0..n {
                    black_box(&mut theirs).copy_from_slice(black_box(&map[..len]));
                }
                u64::from(theirs[len - 1])
            })
        })
        .claim(0.97, "memcpy from a mapping"))
}

/// The writer goes as fast as it can, so it bounds the rate.
fn follow(name: String, path: &Path, len: u64) -> Workload<'_> {
    let following = move |follow: fn(&Path, u64) -> u64| {
        move || {
            let mut log = File::create(path).expect("create");
            Sample::of(1, || {
                thread::scope(|scope| {
                    scope.spawn(move || {
                        for _ in 0..len / PIECE as u64 {
                            log.write_all(&[1; PIECE]).expect("append");
                        }
                    });
                    follow(path, len)
                })
            })
        }
    };
    Workload::new(ROOM, name, Unit::Rate(len))
        .writes(2 * len as usize)
        .stillmap("Live", following(by_mapping))
        .peer("File::read", following(by_reading))
        .claim(0.9, "File::read")
}

/// The bytes are summed up, as in a program that reads each byte.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().map(|&byte| u64::from(byte)).sum()
}

fn by_mapping(path: &Path, len: u64) -> u64 {
    let mut live = Live::open(path).expect("open");
    let (mut buffer, mut done, mut found) = (vec![0; PIECE], 0, 0);
    while (done as u64) < len {
        live.refresh().expect("refresh");
        loop {
            let n = live.read_at(done, &mut buffer).expect("read_at");
            if n == 0 {
                break thread::yield_now();
            }
            found += sum(&buffer[..n]);
            done += n;
        }
    }
    found
}

fn by_reading(path: &Path, len: u64) -> u64 {
    let mut file = File::open(path).expect("open");
    let (mut buffer, mut done, mut found) = (vec![0; PIECE], 0, 0);
    while done < len {
        match file.read(&mut buffer).expect("read") {
            0 => thread::yield_now(),
            n => {
                found += sum(&buffer[..n]);
                done += n as u64;
            }
        }
    }
    found
}
