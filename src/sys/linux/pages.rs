//! System calls on the pages of any address range that change no byte: mincore, madvise's populate, pagemap, getrusage.
//!
//! They take addresses, not references: a range that is not mapped is an error and does no harm.

use super::{page_size, retry_eintr};
use std::fs::File;
use std::io;
use std::mem::{self, MaybeUninit};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr;

/// `MADV_COLLAPSE` of madvise(2), which libc knows for some C libraries only.
pub(crate) const COLLAPSE: i32 = 25;

/// Whether the kernel knows an advice: madvise(2) checks it before it looks at the range, here an empty one.
pub(crate) fn is_advice_supported(advice: i32) -> bool {
    // SAFETY: an empty range; nothing is advised.
    retry_eintr(|| unsafe { libc::madvise(ptr::null_mut(), 0, advice) }).is_ok()
}

/// The residency of pages from `start` on, mincore(2): the lowest bit of a byte for each. `start` is on a page.
pub(crate) fn mincore(start: usize, pages: &mut [u8]) -> io::Result<()> {
    let len = pages.len() * page_size();
    let start = ptr::without_provenance_mut(start);
    // SAFETY: mincore(2) writes one byte for each page of the range, and the buffer has that many.
    retry_eintr(|| unsafe { libc::mincore(start, len, pages.as_mut_ptr().cast()) }).map(drop)
}

/// Whether mincore(2) is reliable for the shared file mapping at `start`: since Linux 5.2 it reports as resident every
/// page of a file that the caller neither owns nor may write to. So this asks about a page far beyond the end of the
/// file, which cannot be resident. `None` if that is no shared mapping, or no address space is left to try.
pub(crate) fn mincore_is_truthful(start: usize) -> Option<bool> {
    // Less where address space is limited (RLIMIT_AS). Should that be inside the file, it claims too little, not too much.
    [40, 30]
        .into_iter()
        .filter_map(|bits| 1_usize.checked_shl(bits))
        .find_map(|far| is_missing(start, far))
}

/// Whether mincore(2) reports that the last page is not in RAM, of `far` bytes from the start of the mapping on.
fn is_missing(start: usize, far: usize) -> Option<bool> {
    let flags = libc::MREMAP_MAYMOVE;
    let start = ptr::without_provenance_mut(start);
    // SAFETY: an old length of 0 leaves the old mapping as it is and maps the same file a second time, mremap(2).
    let second = unsafe { libc::mremap(start, 0, far, flags) };
    if second == libc::MAP_FAILED {
        return None;
    }
    let mut last = [0];
    let asked = mincore(second.addr() + far - page_size(), &mut last);
    // SAFETY: mapped above, and no reference to it exists.
    unsafe { libc::munmap(second, far) };
    asked.ok().map(|()| last[0] & 1 == 0)
}

/// All advice of madvise(2) that leaves bytes alone, in this process and in forked ones.
const NON_DESTRUCTIVE: [i32; 15] = [
    libc::MADV_NORMAL,
    libc::MADV_SEQUENTIAL,
    libc::MADV_RANDOM,
    libc::MADV_WILLNEED,
    libc::MADV_COLD,
    libc::MADV_PAGEOUT,
    libc::MADV_HUGEPAGE,
    libc::MADV_NOHUGEPAGE,
    COLLAPSE,
    libc::MADV_POPULATE_READ,
    libc::MADV_POPULATE_WRITE,
    libc::MADV_DONTDUMP,
    libc::MADV_DODUMP,
    libc::MADV_MERGEABLE,
    libc::MADV_UNMERGEABLE,
];

/// madvise(2) with advice that leaves bytes alone; any other is `EINVAL`.
pub(crate) fn advise(range: Range<usize>, advice: i32) -> io::Result<()> {
    if !NON_DESTRUCTIVE.contains(&advice) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    if range.is_empty() {
        return Ok(());
    }
    let start = ptr::without_provenance_mut(range.start);
    // SAFETY: the advice changes no byte, whatever is there.
    retry_eintr(|| unsafe { libc::madvise(start, range.len(), advice) }).map(drop)
}

/// The header of `PAGEMAP_SCAN`, `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    found: u64,
    found_len: u64,
    most_pages: u64,
    inverted: u64,
    required: u64,
    any_of: u64,
    returned: u64,
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Found {
    start: u64,
    end: u64,
    categories: u64,
}

const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
const PAGE_IS_HUGE: u64 = 1 << 6;

const PAGEMAP_SCAN: libc::Ioctl = libc::_IOWR::<Scan>(b'f' as u32, 16);

/// Bytes of a range that are mapped by huge pages now, exactly (`PAGEMAP_SCAN`, Linux 6.7). The zero page is not counted.
pub(crate) fn huge_bytes(range: Range<usize>) -> io::Result<usize> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut bytes = 0;
    let mut next = range.start as u64;
    let end = range.end as u64;
    while next < end {
        let mut found = [MaybeUninit::<Found>::zeroed(); 64];
        let mut scan = Scan {
            size: mem::size_of::<Scan>() as u64,
            flags: 0,
            start: next,
            end,
            walk_end: 0,
            found: found.as_mut_ptr().expose_provenance() as u64,
            found_len: found.len() as u64,
            most_pages: 0,
            inverted: PAGE_IS_PFNZERO,
            required: PAGE_IS_PRESENT | PAGE_IS_HUGE | PAGE_IS_PFNZERO,
            any_of: 0,
            returned: PAGE_IS_HUGE,
        };
        // SAFETY: the kernel reads and writes the header, and writes at most `found_len` entries to `found`.
        let count =
            retry_eintr(|| unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &mut scan) })?;
        for entry in &found[..count.unsigned_abs() as usize] {
            // SAFETY: zeroed is a valid entry, and the kernel has filled it in.
            let entry = unsafe { entry.assume_init() };
            bytes += (entry.end - entry.start) as usize;
        }
        // The kernel always advances; the comparison only guards against an endless loop.
        next = scan.walk_end.max(next + page_size() as u64);
    }
    Ok(bytes)
}

/// Page faults of the calling thread so far, minor and major: `RUSAGE_THREAD` of getrusage(2), Linux 2.6.26.
pub(crate) fn faults() -> (u64, u64) {
    let usage = super::thread::usage();
    let count = |count: libc::c_long| u64::try_from(count).unwrap_or(0);
    (count(usage.ru_minflt), count(usage.ru_majflt))
}
