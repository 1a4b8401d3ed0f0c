//! Which pages are in RAM, and a drawing of them.

use crate::error::{Error, Result};
use crate::page;
use std::fmt::{self, Write};
use std::io;
use std::ops::Range;

/// The most pages in one call of the platform, during which other threads cannot map or unmap: 256 MiB of small pages.
const PAGES_PER_CALL: usize = 64 << 10;

/// Characters of a drawing without a width.
const DEFAULT_WIDTH: usize = 64;

/// Which pages of a range were in RAM when it was asked; made by [`Pages::residency`](crate::Pages::residency).
///
/// Pages may have been read in or evicted since.
///
/// Its [`Display`](fmt::Display) draws one line, as wide as the format asks (`{:100}`; 64 by default): each character
/// is an equal part of the range, `·` where nothing of it is in RAM, `░▒▓` for some, `█` for all, `?` where it is not
/// known.
///
/// Since Linux 5.2 the kernel does not answer for a file that the process neither owns nor may write to; it then reports
/// every page. Seccomp filters can refuse mincore(2). [`is_reliable`](Residency::is_reliable) is false in these cases, and
/// where the first cannot be ruled out: for a [`Private`](crate::Private) over a sealed file that is all in RAM. No page
/// counts as resident then.
///
/// On Windows a page counts as resident if it is in the working set of this process.
///
/// Source: mincore(2), QueryWorkingSetEx. It costs one bit for each page.
///
/// # Examples
/// ```
/// use stillmap::{Anonymous, page};
/// let mut memory = Anonymous::new(8 * page::size())?;
/// memory[..4 * page::size()].fill(1);
/// let residency = memory.pages().residency(..)?;
/// assert_eq!(format!("{residency:8}"), "████····");
/// assert_eq!(residency.resident_pages(), 4);
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Residency {
    /// One bit for each page, lowest first; no bit is set behind the last page.
    bits: Vec<u64>,
    pages: usize,
    /// The bytes of the value that were asked about.
    bytes: Range<usize>,
    /// Bytes of the first page in front of them.
    offset_in_page: usize,
    is_reliable: bool,
}

impl Residency {
    /// Queries whole pages, which hold `bytes` of a value that starts at the address `start`. `ask` is the call of the
    /// platform: it sets the lowest bit of a byte for each page from an address on. An error if there is no memory for the bits.
    pub(crate) fn query(
        pages: Range<usize>,
        start: usize,
        bytes: Range<usize>,
        ask: impl Fn(usize, &mut [u8]) -> io::Result<()>,
    ) -> Result<Self> {
        let count = pages.len() / page::size();
        let mut bits = Vec::new();
        let reserved = bits.try_reserve_exact(count.div_ceil(64));
        let refused = |_| Error::os("allocate memory", None, io::ErrorKind::OutOfMemory.into());
        reserved.map_err(refused)?;
        let mut residency = Residency {
            bits,
            pages: count,
            offset_in_page: start + bytes.start - pages.start,
            bytes,
            is_reliable: true,
        };
        let mut answers = vec![0; count.min(PAGES_PER_CALL)];
        let mut next = 0;
        while next < count {
            let answers = &mut answers[..(count - next).min(PAGES_PER_CALL)];
            if ask(pages.start + next * page::size(), answers).is_err() {
                return Ok(residency.into_unknown());
            }
            residency.bits.extend(answers.chunks(64).map(gather));
            next += answers.len();
        }
        Ok(residency)
    }

    /// The same where the kernel did not answer, or not reliably.
    pub(crate) fn into_unknown(mut self) -> Self {
        self.bits.clear();
        self.bits.resize(self.pages.div_ceil(64), 0);
        self.is_reliable = false;
        self
    }

    /// Whether the kernel answered; if not, no page counts as resident.
    ///
    /// # Examples
    /// ```
    /// assert!(stillmap::Anonymous::new(1)?.pages().residency(..)?.is_reliable());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_reliable(&self) -> bool {
        self.is_reliable
    }

    /// How many pages hold the bytes.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Anonymous, page};
    /// assert_eq!(Anonymous::new(page::size() + 1)?.pages().residency(..)?.pages(), 2);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// How many of the pages are in RAM.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Anonymous;
    /// assert_eq!(Anonymous::new(1 << 30)?.pages().residency(..)?.resident_pages(), 0);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn resident_pages(&self) -> usize {
        self.bits
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// How many of the bytes are in RAM.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Anonymous;
    /// let mut memory = Anonymous::new(5)?;
    /// memory[0] = 1;
    /// assert_eq!(memory.pages().residency(..)?.resident_bytes(), 5);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn resident_bytes(&self) -> usize {
        self.resident_ranges().map(|range| range.len()).sum()
    }

    /// Whether all pages are in RAM; true if there are none.
    ///
    /// # Examples
    /// ```
    /// use stillmap::Anonymous;
    /// assert!(Anonymous::new(0)?.pages().residency(..)?.is_full());
    /// assert!(!Anonymous::new(1)?.pages().residency(..)?.is_full());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_full(&self) -> bool {
        self.resident_pages() == self.pages
    }

    /// Whether the page that holds a byte is in RAM; false past the end.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Anonymous, page};
    /// let mut memory = Anonymous::new(2 * page::size())?;
    /// memory[page::size()] = 1;
    /// let residency = memory.pages().residency(..)?;
    /// assert!(!residency.is_resident(0));
    /// assert!(residency.is_resident(page::size() + 1));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn is_resident(&self, byte: usize) -> bool {
        self.bytes.contains(&byte)
            && self.bit((self.offset_in_page + byte - self.bytes.start) / page::size())
    }

    /// The bytes that are in RAM, as ranges that do not touch, lowest first.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Anonymous, page};
    /// let size = page::size();
    /// let mut memory = Anonymous::new(10 * size)?;
    /// memory[2 * size..4 * size].fill(1);
    /// let residency = memory.pages().residency(..)?;
    /// assert!(residency.resident_ranges().eq([2 * size..4 * size]));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn resident_ranges(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = self.next_page(next, true);
            let end = self.next_page(first, false);
            next = end;
            let byte = |page: usize| {
                let distance = (page * page::size()).saturating_sub(self.offset_in_page);
                (self.bytes.start + distance).min(self.bytes.end)
            };
            (first < end).then(|| byte(first)..byte(end))
        })
    }

    /// The mapping in `count` equal parts (fewer if it has fewer pages): how much of each is in RAM, from 0.0 to 1.0.
    /// This is what a picture is drawn from.
    ///
    /// # Examples
    /// ```
    /// use stillmap::{Anonymous, page};
    /// let mut memory = Anonymous::new(8 * page::size())?;
    /// memory[..3 * page::size()].fill(1);
    /// assert!(memory.pages().residency(..)?.fractions(4).eq([1.0, 0.5, 0.0, 0.0]));
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn fractions(&self, count: usize) -> impl ExactSizeIterator<Item = f64> + '_ {
        let count = count.min(self.pages);
        (0..count).map(move |part| {
            let pages = self.part(part, count);
            self.count(pages.clone()) as f64 / pages.len() as f64
        })
    }

    fn part(&self, part: usize, count: usize) -> Range<usize> {
        let edge = |part: usize| (part as u128 * self.pages as u128 / count as u128) as usize;
        edge(part)..edge(part + 1)
    }

    fn bit(&self, page: usize) -> bool {
        self.bits[page / 64] >> (page % 64) & 1 == 1
    }

    /// The first page from `page` on that is in RAM, or is not; the number of pages if there is none.
    fn next_page(&self, page: usize, resident: bool) -> usize {
        let mut word = page / 64;
        let mut ignore = page % 64;
        while let Some(&bits) = self.bits.get(word) {
            let wanted = if resident { bits } else { !bits };
            let rest = wanted >> ignore << ignore;
            if rest != 0 {
                return (word * 64 + rest.trailing_zeros() as usize).min(self.pages);
            }
            word += 1;
            ignore = 0;
        }
        self.pages
    }

    /// How many of these pages are in RAM.
    fn count(&self, pages: Range<usize>) -> usize {
        let below = |page: usize| -> u64 { (1 << (page % 64)) - 1 };
        let words = &self.bits[pages.start / 64..pages.end / 64];
        let whole: usize = words.iter().map(|word| word.count_ones() as usize).sum();
        let partial = |page: usize| {
            self.bits
                .get(page / 64)
                .map_or(0, |word| word & below(page))
        };
        whole + partial(pages.end).count_ones() as usize
            - partial(pages.start).count_ones() as usize
    }
}

/// The lowest bit of each of up to 64 bytes, as a word.
fn gather(bytes: &[u8]) -> u64 {
    let mut word = 0;
    for (place, chunk) in bytes.chunks(8).enumerate() {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        let lowest = u64::from_le_bytes(eight) & 0x0101_0101_0101_0101;
        // Each bit is multiplied to a place of its own in the top byte; no two meet, so nothing is carried.
        word |= (lowest.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * place);
    }
    word
}

/// Not each page: there may be millions.
impl fmt::Debug for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Residency")
            .field("pages", &self.pages)
            .field("resident_pages", &self.resident_pages())
            .field("is_reliable", &self.is_reliable)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = f.width().unwrap_or(DEFAULT_WIDTH);
        let parts = self.fractions(width);
        let rest = width - parts.len();
        for part in parts {
            f.write_char(match part {
                _ if !self.is_reliable => '?',
                0.0 => '·',
                part if part <= 1.0 / 3.0 => '░',
                part if part <= 2.0 / 3.0 => '▒',
                part if part < 1.0 => '▓',
                _ => '█',
            })?;
        }
        // A format with a width fills it.
        match f.width() {
            Some(_) => (0..rest).try_for_each(|_| f.write_char(' ')),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn residency(pages: &[bool]) -> Residency {
        let answers: Vec<u8> = pages.iter().map(|&page| u8::from(page) | 0xfe).collect();
        Residency {
            bits: answers.chunks(64).map(gather).collect(),
            pages: pages.len(),
            offset_in_page: 0,
            bytes: 0..pages.len() * page::size(),
            is_reliable: true,
        }
    }

    /// All patterns of 10 pages, laid over the borders of words.
    fn patterns() -> impl Iterator<Item = Vec<bool>> {
        (0..1024_u32).flat_map(|bits| {
            [0, 1, 58, 60, 64, 120].map(|zeros| {
                let pattern = (0..10).map(|page| bits >> page & 1 == 1);
                std::iter::repeat_n(bits % 2 == 0, zeros)
                    .chain(pattern)
                    .collect()
            })
        })
    }

    #[test]
    fn it_agrees_with_the_kernel_for_each_page() {
        for pages in patterns() {
            let residency = residency(&pages);
            let size = page::size();
            let found: Vec<bool> = (0..pages.len())
                .map(|p| residency.is_resident(p * size))
                .collect();
            assert_eq!(found, pages);
            assert_eq!(
                residency.resident_pages(),
                pages.iter().filter(|&&page| page).count()
            );
            let mut from_ranges = vec![false; pages.len()];
            let mut last = None;
            for range in residency.resident_ranges() {
                assert!(
                    last.is_none_or(|last| last < range.start),
                    "ranges do not touch"
                );
                last = Some(range.end);
                from_ranges[range.start / size..range.end / size].fill(true);
            }
            assert_eq!(from_ranges, pages);
        }
    }

    #[test]
    fn parts_are_means_of_their_pages() {
        for pages in patterns() {
            let residency = residency(&pages);
            for count in [1, 2, 3, 7, 64, 1000] {
                let parts: Vec<f64> = residency.fractions(count).collect();
                let count = count.min(pages.len());
                assert_eq!(parts.len(), count);
                for (part, found) in parts.iter().enumerate() {
                    let pages =
                        &pages[part * pages.len() / count..(part + 1) * pages.len() / count];
                    let resident = pages.iter().filter(|&&page| page).count();
                    assert_eq!(*found, resident as f64 / pages.len() as f64);
                }
            }
        }
    }

    #[test]
    fn a_window_counts_bytes_from_its_own_first() {
        let size = page::size();
        let window = Residency {
            offset_in_page: 100,
            bytes: 0..2 * size,
            ..residency(&[true, false, true])
        };
        let ranges: Vec<_> = window.resident_ranges().collect();
        assert_eq!(ranges, [0..size - 100, 2 * size - 100..2 * size]);
        assert_eq!(window.resident_bytes(), size);
        assert!(window.is_resident(size - 101) && !window.is_resident(size - 100));
        assert!(!window.is_resident(2 * size));
    }

    #[test]
    fn the_drawing_is_as_wide_as_asked() {
        let some = residency(&[true, true, false, false, true, false]);
        assert_eq!(format!("{some:6}|"), "██··█·|");
        assert_eq!(format!("{some:3}|"), "█·▒|");
        assert_eq!(format!("{some:9}|"), "██··█·   |");
        assert_eq!(format!("{some}|"), "██··█·|");
        let almost: Vec<bool> = (0..1000).map(|page| page != 5).collect();
        assert_eq!(format!("{:2}", residency(&almost)), "▓█");
        let hardly: Vec<bool> = (0..1000).map(|page| page == 5).collect();
        assert_eq!(format!("{:2}", residency(&hardly)), "░·");
        assert_eq!(format!("{:2}", residency(&hardly).into_unknown()), "??");
        assert_eq!(residency(&[]).to_string(), "");
    }
}
