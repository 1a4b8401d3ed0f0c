//! A few pages of a large file changed, durably.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use stillmap::Exclusive;

use crate::files::Files;
use crate::measure::{Board, Sample, Unit, Workload};
use crate::size;

const ROOM: &str = "exclusive";
const PAGE: usize = 4096;

pub fn measure(board: &mut Board) -> io::Result<()> {
    let len = 256 << 20;
    let name = format!("change 1 % of {} durably", size::name(len as u64));
    if board.wants(ROOM, &name, len as u64) {
        let files = Files::create(len as u64, 3)?;
        board.measure(change(name, &files));
    }
    Ok(())
}

fn change(name: String, files: &Files) -> Workload<'_> {
    let [ours, map, all] = [0, 1, 2].map(|n| files.paths()[n].clone());
    let (mut first, mut second, mut third) = (0, 0, 0);
    Workload::new(ROOM, name, Unit::Time)
        .stillmap("Exclusive", move || {
            Sample::of(1, || {
                first += 1;
                let mut file = Exclusive::open(&ours).expect("open");
                let changed = store(&mut file, first);
                file.close().expect("close");
                changed
            })
        })
        .peer("memmap2 map_mut, flush", move || {
            Sample::of(1, || {
                second += 1;
                let file = File::options()
                    .read(true)
                    .write(true)
                    .open(&map)
                    .expect("open");
                // SAFETY: no other code has the file.
                let mut bytes = unsafe { memmap2::MmapMut::map_mut(&file) }.expect("map");
                let changed = store(&mut bytes, second);
                bytes.flush().expect("flush");
                changed
            })
        })
        .peer(
            "read, change, write, fsync",
            rewrite(all, move || {
                third += 1;
                third
            }),
        )
        .claim(1.0, "memmap2 map_mut, flush")
        .claim(10.0, "read, change, write, fsync")
}

/// The bytes are read before, and not timed: only the rewriting is.
fn rewrite(path: PathBuf, mut round: impl FnMut() -> usize) -> impl FnMut() -> Sample {
    let mut bytes = read(&path);
    move || {
        Sample::of(1, || {
            let changed = store(&mut bytes, round());
            fs::write(&path, &bytes).expect("write");
            File::open(&path)
                .and_then(|file| file.sync_all())
                .expect("fsync");
            changed
        })
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).expect("read")
}

/// One byte in each hundredth page, other pages in each round.
fn store(bytes: &mut [u8], round: usize) -> u64 {
    let pages = bytes.chunks_mut(PAGE).skip(round % 100).step_by(100);
    pages
        .map(|page| page[17] = page[17].wrapping_add(1))
        .count() as u64
}
