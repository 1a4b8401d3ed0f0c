//! A file's bytes to be changed in memory: opened, and one page in a hundred stored to.

use std::io;

use folio::Private;

use crate::files::Files;
use crate::measure::{Board, Sample, Unit, Workload};
use crate::size;

const ROOM: &str = "private";

pub fn measure(board: &mut Board) -> io::Result<()> {
    for len in [64_u64 << 10, 256 << 20] {
        let name = format!("open {}, store to 1 %", size::name(len));
        if board.wants(ROOM, &name, len) {
            let files = Files::create(len, 1)?;
            board.measure(open(name, &files));
        }
    }
    Ok(())
}

fn open(name: String, files: &Files) -> Workload<'_> {
    let path = &files.paths()[0];
    Workload::new(ROOM, name, Unit::Time)
        .folio("Private", move || {
            Sample::of(1, || store(&mut Private::open(path).expect("open")))
        })
        .peer("std::fs::read", move || {
            Sample::of(1, || store(&mut std::fs::read(path).expect("read")))
        })
        // Over a live file: it shows what others write, and dies if they truncate it.
        .peer("memmap2 map_copy (unsound)", move || {
            Sample::of(1, || {
                let file = std::fs::File::open(path).expect("open");
                #[expect(clippy::disallowed_types, reason = "memmap2 has no other way to it")]
                let options = memmap2::MmapOptions::new();
                // SAFETY: nobody writes to the file.
                store(&mut unsafe { options.map_copy(&file) }.expect("map"))
            })
        })
        .claim(1.0, "std::fs::read")
}

fn store(bytes: &mut [u8]) -> u64 {
    let pages = bytes.chunks_mut(4096).step_by(100);
    pages
        .map(|page| page[17] = page[17].wrapping_add(1))
        .count() as u64
}
