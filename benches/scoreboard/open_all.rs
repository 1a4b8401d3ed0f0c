//! A tree of many small files: opened and scanned, warm and cold.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use walkdir::WalkDir;

use crate::files;
use crate::measure::{Board, Sample, Unit, Workload};
use crate::noise::noise;
use crate::scan::scan;

const ROOM: &str = "open_all";
const LOOP: &str = "Snapshot::open in a loop";
const RAYON: &str = "rayon, std::fs::read";

/// Files of a source tree: sizes from 100 bytes to 200 KiB, most of them small; 250 in a directory.
struct Tree {
    dir: tempfile::TempDir,
    paths: Vec<PathBuf>,
}

pub fn measure(board: &mut Board) -> io::Result<()> {
    for (count, cold) in [
        (5_000, false),
        (5_000, true),
        (50_000, false),
        (50_000, true),
    ] {
        let state = if cold { "cold" } else { "warm" };
        let name = format!("scan a {state} tree of {count} files");
        if !board.wants(ROOM, &name, count * 18_600) {
            continue;
        }
        if cold && fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
            eprintln!("{ROOM}: {name}: skipped: only root can drop caches");
            continue;
        }
        let tree = Tree::create(count)?;
        board.measure(scan_tree(name, &tree, cold));
    }
    Ok(())
}

fn scan_tree(name: String, tree: &Tree, cold: bool) -> Workload<'_> {
    let count = tree.paths.len();
    let run = move |scan_all: &dyn Fn() -> u64| {
        if cold {
            fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
        }
        Sample::of(count, scan_all)
    };
    let sum = |sum: u64, bytes: &[u8]| sum.wrapping_add(scan(bytes));
    let paths = &tree.paths;
    Workload::new(ROOM, name, Unit::Time)
        .stillmap("stillmap::open_all", move || {
            run(&|| stillmap::open_all(paths).fold(0, |all, bytes| sum(all, &bytes.expect("open"))))
        })
        .peer(LOOP, move || {
            let open = |path| stillmap::Snapshot::open(path).expect("open");
            run(&|| paths.iter().fold(0, |all, path| sum(all, &open(path))))
        })
        .peer(RAYON, move || {
            let read = |path| scan(&fs::read(path).expect("read"));
            run(&|| paths.par_iter().map(read).reduce(|| 0, u64::wrapping_add))
        })
        .peer("rayon, Snapshot::open", move || {
            let open = |path| scan(&stillmap::Snapshot::open(path).expect("open"));
            run(&|| paths.par_iter().map(open).reduce(|| 0, u64::wrapping_add))
        })
        .peer("walkdir, memmap2", move || {
            run(&|| {
                let entries = WalkDir::new(tree.dir.path()).into_iter();
                let entries = entries.map(|entry| entry.expect("walk"));
                let files = entries.filter(|entry| entry.file_type().is_file());
                files.fold(0, |all, entry| sum(all, &map(entry.path())))
            })
        })
        .claim(if cold { 1.6 } else { 1.5 }, LOOP)
}

fn map(path: &Path) -> memmap2::Mmap {
    let file = File::open(path).expect("open");
    // SAFETY: the file belongs to this program, which leaves it alone while it is mapped.
    unsafe { memmap2::Mmap::map(&file) }.expect("map")
}

impl Tree {
    fn create(count: u64) -> io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("tree-")
            .tempdir_in(files::directory()?)?;
        let bytes = noise();
        let mut paths = Vec::new();
        for number in 0..count {
            let parent = dir.path().join((number / 250).to_string());
            if number % 250 == 0 {
                fs::create_dir(&parent)?;
            }
            // As many files from 100 to 200 bytes as from 50 to 100 KiB.
            let scrambled = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            let len = (100 << (scrambled % 11)) + scrambled % 100;
            let path = parent.join(format!("{number}.rs"));
            fs::write(&path, &bytes[..(len as usize).min(bytes.len())])?;
            paths.push(path);
        }
        // SAFETY: no pointer is involved.
        match unsafe { libc::syncfs(File::open(dir.path())?.as_raw_fd()) } {
            0 => Ok(Tree { dir, paths }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
