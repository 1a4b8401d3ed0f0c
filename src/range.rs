//! The range rule of the crate: which ranges of bytes are inside a value or file, and how long their whole pages are.

use crate::error::{Error, Result};
use std::ops::{Bound, Range, RangeBounds};

/// The rule: a range must lie inside `0..size`; an empty one inside `0..=size`.
pub(crate) fn check<R: RangeBounds<usize>>(range: R, size: usize) -> Result<Range<usize>> {
    let start = match range.start_bound() {
        Bound::Included(&start) => Some(start),
        Bound::Excluded(&before) => before.checked_add(1),
        Bound::Unbounded => Some(0),
    };
    let end = match range.end_bound() {
        Bound::Included(&last) => last.checked_add(1),
        Bound::Excluded(&end) => Some(end),
        Bound::Unbounded => Some(size),
    };
    match (start, end) {
        (Some(start), Some(end)) if start <= end && end <= size => Ok(start..end),
        _ => {
            let start = start.unwrap_or(usize::MAX);
            let len = end.unwrap_or(usize::MAX).saturating_sub(start);
            Err(out_of_bounds(start as u64, len as u64, size as u64))
        }
    }
}

/// The rule for a window of a file, whose size has 64 bits; by default it extends to the end.
pub(crate) fn check_window(offset: u64, len: Option<u64>, size: u64) -> Result<Range<u64>> {
    let wanted = len.unwrap_or(size.saturating_sub(offset));
    match offset.checked_add(wanted) {
        Some(end) if end <= size => Ok(offset..end),
        _ => Err(out_of_bounds(offset, wanted, size)),
    }
}

/// The rule for `len` bytes from `offset` on, inlined because each access to shared memory checks it.
#[inline]
pub(crate) fn check_bytes(offset: usize, len: usize, size: usize) -> Result<()> {
    if offset <= size && len <= size - offset {
        Ok(())
    } else {
        Err(out_of_bounds(offset as u64, len as u64, size as u64))
    }
}

#[cold]
fn out_of_bounds(offset: u64, len: u64, size: u64) -> Error {
    Error::out_of_bounds(offset, len, size)
}

/// `len` rounded up to whole pages, or `TooLarge` if that exceeds `isize::MAX`.
pub(crate) fn whole_pages(len: usize, page: usize) -> Result<usize> {
    let limit = isize::MAX.unsigned_abs();
    len.checked_next_multiple_of(page)
        .filter(|&pages| pages <= limit)
        .ok_or_else(|| Error::too_large_to_address(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule in wide arithmetic, where nothing can overflow.
    fn oracle(range: (Bound<usize>, Bound<usize>), size: usize) -> Option<(u128, u128)> {
        let start = match range.0 {
            Bound::Included(n) => n as u128,
            Bound::Excluded(n) => n as u128 + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.1 {
            Bound::Included(n) => n as u128 + 1,
            Bound::Excluded(n) => n as u128,
            Bound::Unbounded => size as u128,
        };
        (start <= end && end <= size as u128).then_some((start, end))
    }

    #[test]
    fn a_range_is_inside_or_an_error() {
        let numbers = [0, 1, 2, 9, 10, 11, usize::MAX - 1, usize::MAX];
        let bounds = || {
            let of = |n| [Bound::Included(n), Bound::Excluded(n)];
            numbers.into_iter().flat_map(of).chain([Bound::Unbounded])
        };
        for start in bounds() {
            for end in bounds() {
                for size in [0, 1, 10, usize::MAX] {
                    let found = check((start, end), size).ok();
                    let found = found.map(|r| (r.start as u128, r.end as u128));
                    assert_eq!(
                        found,
                        oracle((start, end), size),
                        "{start:?} {end:?} {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_window_is_inside_or_an_error() {
        let numbers = [0, 1, 9, 10, 11, u64::MAX - 1, u64::MAX];
        for offset in numbers {
            for len in numbers.into_iter().map(Some).chain([None]) {
                for size in [0, 1, 10, u64::MAX] {
                    let end = match len {
                        Some(len) => u128::from(offset) + u128::from(len),
                        None => u128::from(size.max(offset)),
                    };
                    let fits = end <= u128::from(size);
                    assert_eq!(
                        check_window(offset, len, size).is_ok(),
                        fits,
                        "{offset} {len:?} {size}"
                    );
                }
            }
        }
    }

    #[test]
    fn bytes_are_inside_or_an_error() {
        let numbers = [0, 1, 9, 10, 11, usize::MAX - 1, usize::MAX];
        for offset in numbers {
            for len in numbers {
                for size in [0, 1, 10, usize::MAX] {
                    let fits = offset as u128 + len as u128 <= size as u128;
                    let found = check_bytes(offset, len, size);
                    assert_eq!(found.is_ok(), fits, "{offset} {len} {size}");
                }
            }
        }
    }

    #[test]
    fn lengths_that_no_pointer_reaches_are_errors() {
        for len in [usize::MAX, isize::MAX as usize + 1, isize::MAX as usize] {
            assert!(matches!(
                whole_pages(len, 4096),
                Err(Error::TooLarge { .. })
            ));
        }
        assert_eq!(whole_pages(1, 4096).ok(), Some(4096));
    }
}
