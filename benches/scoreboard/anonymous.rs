//! Memory from the kernel: asked for, then every page touched for the first time.

use std::io;
use std::time::Instant;

use stillmap::{Anonymous, HugePages};

use crate::bare::Bare;
use crate::measure::{Board, Sample, Unit, Workload};
use crate::size;
use crate::touch::touch;

const ROOM: &str = "anonymous";

/// `more` may add contenders to a workload of that many bytes, in huge pages or not.
pub fn measure(
    board: &mut Board,
    more: impl Fn(Workload<'static>, usize, bool) -> Workload<'static>,
) -> io::Result<()> {
    let size = 256 << 20;
    for (huge, kind) in [(true, "huge pages"), (false, "plain pages")] {
        let name = format!("first touch of {}, {kind}", size::name(size as u64));
        // No input is needed.
        if board.wants(ROOM, &name, 0) {
            board.measure(more(first_touch(name, size, huge), size, huge));
        }
    }
    Ok(())
}

fn first_touch(name: String, size: usize, huge: bool) -> Workload<'static> {
    let pages = if huge {
        HugePages::Transparent
    } else {
        HugePages::System
    };
    let workload = Workload::new(ROOM, name, Unit::Rate(size as u64))
        .stillmap("Anonymous", move || {
            let allocate = || Anonymous::options().huge_pages(pages).allocate(size);
            allocate_and_touch(allocate, |memory| touch(memory))
        })
        .peer("vec![0; n]", move || {
            allocate_and_touch(|| Ok::<_, io::Error>(vec![0; size]), |memory| touch(memory))
        })
        .peer("memmap2 map_anon", move || {
            allocate_and_touch(|| memmap2::MmapMut::map_anon(size), |memory| touch(memory))
        });
    let limit = move || {
        allocate_and_touch(
            || Ok::<_, io::Error>(Bare::map(size, huge)),
            |memory| touch(memory),
        )
    };
    match huge {
        true => workload
            .peer("memmap2 map_anon, advised", move || {
                allocate_and_touch(|| advised(size), |memory| touch(memory))
            })
            .limit("bare mmap, MADV_HUGEPAGE", limit)
            .claim(4.0, "vec![0; n]")
            .claim(4.0, "memmap2 map_anon"),
        false => workload.limit("bare mmap", limit),
    }
}

/// memmap2 with the advice that makes it fastest.
fn advised(size: usize) -> io::Result<memmap2::MmapMut> {
    let memory = memmap2::MmapMut::map_anon(size)?;
    memory.advise(memmap2::Advice::HugePage)?;
    Ok(memory)
}

/// Times getting the memory and touching it, not giving it back.
pub fn allocate_and_touch<B, E: std::fmt::Debug>(
    allocate: impl FnOnce() -> Result<B, E>,
    touch: impl FnOnce(&mut B) -> u64,
) -> Sample {
    let start = Instant::now();
    let mut memory = allocate().expect("memory");
    let touched = touch(&mut memory);
    Sample::new(start.elapsed(), 1).check(touched)
}
