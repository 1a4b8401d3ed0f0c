//! Which pages are in RAM: mincore(2).

use rustix::param::page_size;
use std::ops::Range;

/// Ranges no further apart than this, in bytes, are asked for in one call: a call takes as long as walking over 100 pages.
const GAP: usize = 512 << 10;

/// The most bytes in one call, so that its answer is 64 KiB.
const CALL: usize = 256 << 20;

/// Whether all pages of each range of `bytes` are in RAM; false for those of which the kernel does not say.
///
/// `stillmap::Pages::is_resident` first checks whether mincore(2) is reliable for this process, which takes about 20
/// us. This is for files of which that is known. 1,000 ranges of 8 KiB in 256 MiB take 0.2 ms, with one call each 1 ms.
pub(crate) fn are_resident(bytes: &[u8], ranges: &[Range<usize>]) -> Vec<bool> {
    let mut found = vec![false; ranges.len()];
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_unstable_by_key(|&index| ranges[index].start);
    let mut pages = Vec::new();
    let mut rest = &order[..];
    while let Some(&first) = rest.first() {
        let mut span = ranges[first].clone();
        let joins = |&index: &usize| {
            let next = &ranges[index];
            let joins = next.start <= span.end + GAP && next.end.max(span.end) - span.start <= CALL;
            if joins {
                span.end = span.end.max(next.end);
            }
            joins
        };
        let count = 1 + rest[1..].iter().copied().take_while(joins).count();
        let (group, after) = rest.split_at(count);
        rest = after;
        if let Some(start) = look(&bytes[span], &mut pages) {
            for &index in group {
                found[index] = is_all_set(&pages, start, &bytes[ranges[index].clone()]);
            }
        }
    }
    found
}

/// Stores which pages of `bytes` are in RAM, one byte for each. The address of the first page; `None` if the kernel does
/// not say.
fn look(bytes: &[u8], pages: &mut Vec<u8>) -> Option<usize> {
    let start = bytes.as_ptr().addr() / page_size() * page_size();
    let end = bytes.as_ptr_range().end.addr();
    pages.clear();
    pages.resize((end - start).div_ceil(page_size()), 0);
    let first = std::ptr::without_provenance_mut(start);
    // SAFETY: `pages` has room for one byte of each page of the range, which is all that mincore(2) writes. It does not
    // access the range itself.
    #[allow(unsafe_code)]
    let status = unsafe { libc::mincore(first, end - start, pages.as_mut_ptr()) };
    (status == 0).then_some(start)
}

fn is_all_set(pages: &[u8], start: usize, part: &[u8]) -> bool {
    if part.is_empty() {
        return true;
    }
    let part = part.as_ptr_range();
    let first = (part.start.addr() - start) / page_size();
    let end = (part.end.addr() - start).div_ceil(page_size());
    pages[first..end].iter().all(|page| page & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_looked_at_one_by_one_whatever_their_order() {
        let page = page_size();
        let mut memory = stillmap::Anonymous::new(300 << 20).expect("address space");
        let mut touch = |offset: usize, len: usize| memory[offset..offset + len].fill(1);
        // With huge pages, 2 MiB around a byte are in RAM.
        touch(10 << 20, 3 * page);
        touch(290 << 20, 1);
        let at = |mib: usize| mib << 20..(mib << 20) + 2 * page;
        let ranges = [at(290), at(100), at(10), at(20), 0..300 << 20, 5..5, at(10)];
        let resident = are_resident(&memory, &ranges);
        assert_eq!(resident[1..6], [false, true, false, false, true]);
        assert!(resident[6]);
        assert_eq!(are_resident(&memory, &[]), []);
    }
}
