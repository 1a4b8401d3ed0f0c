//! Memory from the kernel: asked for, then every page touched for the first time.

use std::hint::black_box;
use std::io;
use std::ops::DerefMut;
use std::time::Instant;

use folio::{Anonymous, HugePages};

use crate::bare::Bare;
use crate::measure::{Board, Sample, Unit, Workload};
use crate::size;

const ROOM: &str = "anonymous";
const PAGE: usize = 4 << 10;

pub fn measure(board: &mut Board) -> io::Result<()> {
    let size = 256 << 20;
    for (pages, kind) in [
        (HugePages::Transparent, "huge pages"),
        (HugePages::System, "plain pages"),
    ] {
        let name = format!("first touch of {}, {kind}", size::name(size));
        // No input to be made.
        if board.wants(ROOM, &name, 0) {
            board.measure(with_peers(name, size as usize, pages));
        }
    }
    Ok(())
}

fn with_peers(name: String, size: usize, pages: HugePages) -> Workload<'static> {
    let huge = matches!(pages, HugePages::Transparent);
    let workload = Workload::new(ROOM, name, Unit::Rate(size as u64))
        .folio("Anonymous", move || {
            touch(|| {
                Anonymous::options()
                    .huge_pages(pages)
                    .allocate(size)
                    .expect("allocate")
            })
        })
        .peer("vec![0; n]", move || touch(|| vec![0u8; size]))
        .peer("memmap2 map_anon", move || {
            touch(|| memmap2::MmapMut::map_anon(size).expect("map_anon"))
        })
        .limit(
            if huge {
                "bare mmap, MADV_HUGEPAGE"
            } else {
                "bare mmap"
            },
            move || touch(|| Bare::map(size, huge)),
        );
    match huge && size > 2 << 20 {
        true => workload
            .claim(4.0, "vec![0; n]")
            .claim(4.0, "memmap2 map_anon"),
        false => workload,
    }
}

/// Times getting the memory and writing one byte to each page, not giving it back.
fn touch<B: DerefMut<Target = [u8]>>(allocate: impl FnOnce() -> B) -> Sample {
    let start = Instant::now();
    let mut bytes = allocate();
    for byte in black_box(&mut *bytes).iter_mut().step_by(PAGE) {
        *byte = 1;
    }
    let time = start.elapsed();
    let touched = black_box(&*bytes)
        .iter()
        .step_by(PAGE)
        .map(|&byte| u64::from(byte))
        .sum();
    Sample::new(time, 1).check(touched)
}
