//! A pipe as bytes: read to its end, the length unknown before.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::measure::{Board, Sample, Unit, Workload};
use crate::pipe::{Pipe, widen};
use crate::size;

const ROOM: &str = "stream";
const MIB: u64 = 1 << 20;
/// The widest pipe that an unprivileged process may have by default.
const WIDE: i32 = 1 << 20;
const THROWN_AWAY: &str = "bytes thrown away, wide pipe";

pub fn measure(board: &mut Board) -> io::Result<()> {
    for size in [MIB, 16 * MIB, 256 * MIB, 1024 * MIB] {
        for block in [64 << 10, MIB] {
            let name = format!(
                "pipe of {}, written by {}",
                size::name(size),
                size::name(block)
            );
            if board.wants(ROOM, &name, size) {
                board.measure(pipe(name, size, block as usize));
            }
        }
    }
    Ok(())
}

fn pipe(name: String, size: u64, block: usize) -> Workload<'static> {
    /// Times `read` alone; that the bytes are right is seen after.
    fn run<B: AsRef<[u8]>>(
        size: u64,
        block: usize,
        read: impl FnOnce(&OwnedFd) -> io::Result<B>,
    ) -> Sample {
        let pipe = Pipe::open(size, block).expect("writer");
        let start = Instant::now();
        let bytes = read(&pipe.reader).expect("read");
        let time = start.elapsed();
        pipe.close().expect("writer");
        let bytes = bytes.as_ref();
        assert_eq!(bytes.len() as u64, size);
        let some = bytes
            .iter()
            .step_by(4099)
            .fold(0, |sum: u64, &byte| sum.wrapping_mul(31) + u64::from(byte));
        Sample::new(time, 1).check(some)
    }
    let workload = Workload::new(ROOM, name, Unit::Rate(size))
        .stillmap("Snapshot::from_fd", move || {
            run(size, block, |pipe| {
                stillmap::Snapshot::from_fd(pipe).map_err(io::Error::from)
            })
        })
        .peer("read_to_end", move || run(size, block, read_to_end))
        .peer("read_to_end, wide pipe", move || {
            run(size, block, |pipe| {
                widen(pipe, WIDE)?;
                read_to_end(pipe)
            })
        })
        .limit(THROWN_AWAY, throw_away(size, block, WIDE as usize))
        .limit(
            "the same, reads of 64 KiB",
            throw_away(size, block, 64 << 10),
        );
    if size == MIB {
        return workload;
    }
    let times = if size < 256 * MIB { 3.0 } else { 4.0 };
    workload
        .claim(times, "read_to_end")
        .claim(0.75, THROWN_AWAY)
}

fn read_to_end(pipe: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::from(pipe.try_clone()?).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The kernel's part: the same copies out of a pipe of the same size, always into the same memory.
fn throw_away(size: u64, block: usize, step: usize) -> impl FnMut() -> Sample {
    let mut buffer = vec![1; step];
    move || {
        let pipe = Pipe::open(size, block).expect("writer");
        let start = Instant::now();
        widen(&pipe.reader, WIDE).expect("F_SETPIPE_SZ");
        let mut reader = File::from(pipe.reader.try_clone().expect("dup"));
        let mut total = 0;
        loop {
            match reader.read(&mut buffer).expect("read") {
                0 => break,
                n => total += n as u64,
            }
        }
        let time = start.elapsed();
        pipe.close().expect("writer");
        assert_eq!(total, size);
        Sample::new(time, 1)
    }
}
