//! A new file, produced in memory, durable and visible under its name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use stillmap::Draft;

use crate::measure::{Board, Sample, Unit, Workload};
use crate::{files, size};

const ROOM: &str = "draft";
const SMALL: usize = 1 << 20;
/// The output of a linker.
const LINKED: usize = 64 << 20;

pub fn measure(board: &mut Board) -> io::Result<()> {
    for len in [SMALL, 256 << 20] {
        let name = format!("create {} durably", size::name(len as u64));
        if board.wants(ROOM, &name, len as u64) {
            board.measure(create(name, len)?);
        }
    }
    let name = format!("create {}, not durable", size::name(LINKED as u64));
    if board.wants(ROOM, &name, LINKED as u64) {
        board.measure(not_durable(name, LINKED)?);
    }
    Ok(())
}

/// As a linker writes its output. All replace the file of the round before.
fn not_durable(name: String, len: usize) -> io::Result<Workload<'static>> {
    let dir = tempfile::tempdir_in(files::directory()?)?;
    let ours = dir.path().join("ours");
    let (map, new) = (dir.path().join("map"), dir.path().join("map.new"));
    // The last contender holds the directory.
    let workload = Workload::new(ROOM, name, Unit::Rate(len as u64))
        .writes(len)
        .stillmap("Draft", move || {
            Sample::of(1, || {
                let options = Draft::options().durable(false);
                let mut draft = options.create(&ours, len).expect("create");
                fill(&mut draft);
                draft.commit().expect("commit");
                length(&ours)
            })
        })
        .peer("memmap2, rename", move || {
            let _ = &dir;
            Sample::of(1, || {
                map_and_fill(&new, len);
                fs::rename(&new, &map).expect("rename");
                length(&map)
            })
        });
    Ok(workload.claim(0.9, "memmap2, rename"))
}

fn create(name: String, len: usize) -> io::Result<Workload<'static>> {
    let dir = tempfile::tempdir_in(files::directory()?)?;
    let place = |name: &str| {
        (
            dir.path().join(name),
            dir.path().join(format!("{name}.new")),
        )
    };
    let (ours, vec, map, bare) = (place("ours"), place("vec"), place("map"), place("bare"));
    let ready = {
        let mut bytes = vec![0; len];
        fill(&mut bytes);
        bytes
    };
    // The last contender holds the directory.
    let workload = Workload::new(ROOM, name, Unit::Rate(len as u64))
        .writes(len)
        .stillmap("Draft", move || {
            Sample::of(1, || {
                let mut draft = Draft::create(&ours.0, len).expect("create");
                fill(&mut draft);
                draft.commit().expect("commit");
                length(&ours.0)
            })
        })
        .peer("Vec, write, fsync, rename", move || {
            Sample::of(1, || {
                let mut bytes = vec![0; len];
                fill(&mut bytes);
                let mut file = File::create(&vec.1).expect("create");
                file.write_all(&bytes).expect("write");
                publish(&file, &vec.1, &vec.0);
                length(&vec.0)
            })
        })
        .peer("memmap2, flush, rename", move || {
            Sample::of(1, || {
                let (file, bytes) = map_and_fill(&map.1, len);
                bytes.flush().expect("flush");
                publish(&file, &map.1, &map.0);
                length(&map.0)
            })
        })
        .limit("ready bytes, write, fsync, rename", move || {
            let _ = &dir;
            Sample::of(1, || {
                let mut file = File::create(&bare.1).expect("create");
                file.write_all(&ready).expect("write");
                publish(&file, &bare.1, &bare.0);
                length(&bare.0)
            })
        });
    Ok(match len {
        // Of a small file the time is that of the fsyncs, and that of the steps that the others leave out.
        SMALL => workload,
        _ => workload
            .claim(1.0, "Vec, write, fsync, rename")
            .claim(1.0, "memmap2, flush, rename"),
    })
}

/// A new file, filled through memmap2.
fn map_and_fill(path: &Path, len: usize) -> (File, memmap2::MmapMut) {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(true);
    let file = options.open(path).expect("create");
    file.set_len(len as u64).expect("set_len");
    // SAFETY: no other code has the file.
    let mut bytes = unsafe { memmap2::MmapMut::map_mut(&file) }.expect("map");
    fill(&mut bytes);
    (file, bytes)
}

/// What each produces: words that are all different.
fn fill(bytes: &mut [u8]) {
    for (number, word) in bytes.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(
            &(number as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes(),
        );
    }
}

fn publish(file: &File, from: &Path, to: &Path) {
    file.sync_all().expect("fsync");
    fs::rename(from, to).expect("rename");
    let dir = File::open(to.parent().expect("a directory")).expect("open");
    // SAFETY: no pointer is involved.
    assert_eq!(unsafe { libc::fsync(dir.as_raw_fd()) }, 0);
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("the file").len()
}
