//! The scoreboard's file and memory workloads with more peers: mmap-io and fmmap.
#![allow(clippy::disallowed_methods)]

#[path = "../../inputs/files.rs"]
mod files;
#[path = "../../inputs/noise.rs"]
mod noise;
#[path = "../../inputs/scan.rs"]
mod scan;
#[path = "../../inputs/size.rs"]
mod size;
#[path = "../../inputs/touch.rs"]
mod touch;

#[path = "../../scoreboard/bare.rs"]
mod bare;
#[path = "../../scoreboard/machine.rs"]
mod machine;
#[path = "../../scoreboard/measure.rs"]
#[allow(dead_code, reason = "none of these workloads writes files")]
mod measure;
#[path = "../../scoreboard/run.rs"]
mod run;
#[path = "../../scoreboard/table.rs"]
mod table;

#[path = "../../scoreboard/anonymous.rs"]
mod anonymous;
#[path = "../../scoreboard/open.rs"]
mod open;

use std::path::Path;

use clap::Parser;
use fmmap::{MmapFile, MmapFileExt};
use mmap_io::{AnonymousMmap, MemoryMappedFile};

use anonymous::allocate_and_touch;
use measure::Workload;
use open::Pattern;
use scan::scan;
use touch::touch;

fn main() -> std::io::Result<()> {
    let mut args = run::Args::parse();
    args.bench = true;
    run::run(args, |board| {
        open::measure(board, with_file_peers)?;
        anonymous::measure(board, with_memory_peers)
    })
}

fn with_file_peers<'a>(workload: Workload<'a>, pattern: Pattern<'a>) -> Workload<'a> {
    workload
        .peer("mmap-io open_ro", move || {
            pattern.run(
                |path| MemoryMappedFile::open_ro(path).expect("open_ro"),
                |file| scan(&file.as_slice(0, file.len()).expect("as_slice")),
            )
        })
        .peer("fmmap open", move || {
            pattern.run(fmmap_open, |file| scan(file.as_slice()))
        })
}

fn fmmap_open(path: &Path) -> MmapFile {
    // SAFETY: the file belongs to this program, which leaves it alone while it is mapped.
    unsafe { MmapFile::open(path) }.expect("open")
}

/// fmmap has no anonymous memory.
fn with_memory_peers(workload: Workload<'static>, size: usize, huge: bool) -> Workload<'static> {
    let size = size as u64;
    workload.peer("mmap-io AnonymousMmap", move || {
        let allocate = || if huge {
            AnonymousMmap::with_huge_pages(size)
        } else {
            AnonymousMmap::new(size)
        };
        allocate_and_touch(allocate, |memory| {
            touch(&mut memory.as_mut_slice(0, size).expect("as_mut_slice"))
        })
    })
}
