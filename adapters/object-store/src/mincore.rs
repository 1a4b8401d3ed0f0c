//! Which pages are in RAM: mincore(2).

use rustix::param::page_size;

/// Whether all pages of some bytes are in RAM; false if the kernel does not say.
///
/// `stillmap::Pages::is_resident` first checks whether mincore(2) is reliable for this process, which takes about 20
/// us. This is for files of which that is known, and takes less than 1 us.
pub(crate) fn are_resident(bytes: &[u8]) -> bool {
    let start = bytes.as_ptr().addr() / page_size() * page_size();
    let end = bytes.as_ptr_range().end.addr();
    let mut pages = vec![0_u8; (end - start).div_ceil(page_size())];
    let first = std::ptr::without_provenance_mut(start);
    // SAFETY: `pages` has room for one byte of each page of the range, which is all that mincore(2) writes. It does not
    // access the range itself.
    #[allow(unsafe_code)]
    let status = unsafe { libc::mincore(first, end - start, pages.as_mut_ptr()) };
    status == 0 && pages.iter().all(|page| page & 1 == 1)
}
