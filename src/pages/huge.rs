//! How many bytes are mapped by huge pages.

use crate::error::{Error, Result};
use crate::sys;
use crate::sys::memory::vma;
use std::fs;
use std::ops::Range;

/// Bytes of whole pages that are mapped by huge pages now.
pub(super) fn bytes(pages: Range<usize>) -> Result<usize> {
    match sys::pages::huge_bytes(pages.clone()) {
        Ok(bytes) => Ok(bytes),
        // Linux before 6.7.
        Err(_) => {
            let smaps = "/proc/self/smaps";
            let text = fs::read(smaps).map_err(|e| Error::os("read", Some(smaps.as_ref()), e))?;
            // Names of files need not be UTF-8.
            Ok(bytes_in_smaps(&String::from_utf8_lossy(&text), &pages))
        }
    }
}

/// The fields of proc_pid_smaps(5) that count huge pages.
const FIELDS: [&str; 5] = [
    "AnonHugePages:",
    "ShmemPmdMapped:",
    "FilePmdMapped:",
    "Shared_Hugetlb:",
    "Private_Hugetlb:",
];

/// The kernel counts for a whole area, which can extend past the pages if it was merged with its neighbours: then at most
/// the length of the part inside is counted.
fn bytes_in_smaps(smaps: &str, pages: &Range<usize>) -> usize {
    let mut inside = 0;
    let mut of_vma = 0;
    let mut bytes = 0;
    for line in smaps.lines() {
        if let Some(vma) = vma(line) {
            bytes += inside.min(of_vma);
            inside = vma
                .end
                .min(pages.end)
                .saturating_sub(vma.start.max(pages.start));
            of_vma = 0;
        } else if inside > 0 {
            of_vma += FIELDS
                .iter()
                .find_map(|field| kibibytes(line, field))
                .unwrap_or(0)
                << 10;
        }
    }
    bytes + inside.min(of_vma)
}

fn kibibytes(line: &str, field: &str) -> Option<usize> {
    line.strip_prefix(field)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page;
    use crate::region::Region;
    use std::io::Write;

    #[test]
    fn an_area_counts_as_far_as_it_lies_inside() {
        let smaps = "\
00400000-00800000 rw-p 00000000 00:00 0 \n\
AnonHugePages:      4096 kB\n\
VmFlags: rd wr\n\
00a00000-00c00000 rw-p 00000000 00:00 0 [heap]\n\
AnonHugePages:         0 kB\n\
FilePmdMapped:      2048 kB\n";
        assert_eq!(bytes_in_smaps(smaps, &(0x400000..0x800000)), 4 << 20);
        assert_eq!(bytes_in_smaps(smaps, &(0x600000..0xa00000)), 2 << 20);
        assert_eq!(bytes_in_smaps(smaps, &(0x400000..0xc00000)), 6 << 20);
        assert_eq!(bytes_in_smaps(smaps, &(0x800000..0xa00000)), 0);
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no huge pages")]
    fn both_ways_of_counting_agree() {
        let Some(huge) = page::huge_size() else {
            return skip("no huge pages");
        };
        let region = Region::with_huge_pages(8 * huge).unwrap();
        let pages = region.addresses();
        // With a flag of its own the area is not merged with its neighbours, whose huge pages smaps would count too.
        sys::pages::advise(pages.clone(), libc::MADV_DONTDUMP).unwrap();
        // Half of it, so that counting everything or nothing is wrong.
        let half = pages.start..pages.start + 4 * huge;
        if let Err(e) = sys::pages::advise(half, libc::MADV_POPULATE_WRITE) {
            return skip(format_args!("MADV_POPULATE_WRITE: {e}"));
        }
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        match sys::pages::huge_bytes(pages.clone()) {
            Ok(bytes) => assert_eq!(bytes, bytes_in_smaps(&smaps, &pages)),
            Err(e) => skip(format_args!("PAGEMAP_SCAN: {e}")),
        }
    }

    /// To the real stderr, which libtest does not capture.
    fn skip(why: impl std::fmt::Display) {
        let _ = writeln!(std::io::stderr(), "skipped: {why}");
    }
}
