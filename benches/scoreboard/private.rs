//! A file's bytes to be changed in memory: opened, and one page in a hundred stored to.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;

use stillmap::{Backing, Private};

use crate::files::{self, Files};
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
    // A clone costs no copy, so the time to open does not grow with the file.
    let len = 1 << 30;
    let name = format!("open {} on xfs", size::name(len));
    if board.wants(ROOM, &name, len) {
        match Xfs::mounted()? {
            Some(xfs) => board.measure(open_clones(name, &xfs, len)?),
            None => println!("{ROOM}: {name}: skipped: it takes root, loop devices and mkfs.xfs"),
        }
    }
    Ok(())
}

fn open_clones(name: String, xfs: &Xfs, len: u64) -> io::Result<Workload<'_>> {
    let (large, small) = (xfs.dir.path().join("large"), xfs.dir.path().join("small"));
    for (path, len) in [(&large, len), (&small, len >> 6)] {
        io::copy(
            &mut io::Read::take(io::repeat(7), len),
            &mut File::create(path)?,
        )?;
        File::open(path)?.sync_all()?;
    }
    let contender = |path: std::path::PathBuf| {
        move || {
            Sample::of(1, || {
                let private = Private::open(&path).expect("open");
                assert_eq!(private.backing(), Backing::Cloned);
                u64::from(private[0])
            })
        }
    };
    Ok(Workload::new(ROOM, name, Unit::Time)
        .stillmap("Private", contender(large))
        .peer("Private, 16 MiB", contender(small))
        .claim(0.5, "Private, 16 MiB"))
}

/// A file system with clones, unmounted when dropped.
struct Xfs {
    dir: tempfile::TempDir,
    _image: tempfile::TempDir,
}

impl Xfs {
    fn mounted() -> io::Result<Option<Self>> {
        let image = tempfile::tempdir_in(files::directory()?)?;
        let path = image.path().join("image");
        File::create(&path)?.set_len(2 << 30)?;
        let dir = tempfile::tempdir()?;
        let ran = |command: &mut Command| command.output().is_ok_and(|o| o.status.success());
        let made = ran(Command::new("mkfs.xfs").args(["-q", "-f"]).arg(&path));
        let mount = |dir: &Path| {
            ran(Command::new("mount")
                .args(["-o", "loop"])
                .args([&path, dir]))
        };
        let mounted = made && mount(dir.path());
        let _image = image;
        Ok(mounted.then_some(Xfs { dir, _image }))
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).status();
    }
}

fn open(name: String, files: &Files) -> Workload<'_> {
    let path = &files.paths()[0];
    Workload::new(ROOM, name, Unit::Time)
        .stillmap("Private", move || {
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
                // SAFETY: no code writes to the file.
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
