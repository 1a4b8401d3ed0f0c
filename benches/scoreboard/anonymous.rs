//! Memory from the kernel: asked for, then every page touched for the first time.

use std::hint::black_box;
use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Instant;

use folio::{Anonymous, HugePages};

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
            let pages = match huge {
                true => HugePages::Transparent,
                false => HugePages::System,
            };
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

/// A mapping with nothing around it.
struct Bare {
    start: *mut libc::c_void,
    len: usize,
}

impl Bare {
    fn map(len: usize, huge: bool) -> Self {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        );
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        if huge {
            // SAFETY: the mapping made above; this advice leaves the bytes alone.
            let advised = unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
            assert_eq!(advised, 0, "MADV_HUGEPAGE");
        }
        Self { start, len }
    }
}

impl Deref for Bare {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped and zeroed from `map` to `drop`, ours alone.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len) }
    }
}

impl DerefMut for Bare {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only way in.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.len) }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`.
        unsafe { libc::munmap(self.start, self.len) };
    }
}
