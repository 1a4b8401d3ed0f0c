//! Page sizes, and rounding to pages.

use crate::sys;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The size of a page of memory, in bytes: a power of two, 4096 on most machines.
///
/// Source: `sysconf(_SC_PAGESIZE)`, sysconf(3).
///
/// # Examples
/// ```
/// assert!(stillmap::page::size().is_power_of_two());
/// ```
pub fn size() -> usize {
    // 0: not known yet. Threads that look it up at once store the same number, so no order is needed.
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    match SIZE.load(Ordering::Relaxed) {
        0 => {
            let size = sys::page_size();
            SIZE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    }
}

/// The smallest multiple of the page size that is at least `n`; `None` if that overflows.
///
/// # Examples
/// ```
/// use stillmap::page;
/// assert_eq!(page::align_up(1), Some(page::size()));
/// assert_eq!(page::align_up(0), Some(0));
/// assert_eq!(page::align_up(usize::MAX), None);
/// ```
pub fn align_up(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(size())
}

/// The largest multiple of the page size that is at most `n`.
///
/// # Examples
/// ```
/// use stillmap::page;
/// assert_eq!(page::align_down(page::size() + 1), page::size());
/// ```
pub fn align_down(n: usize) -> usize {
    n - n % size()
}

/// The size of a transparent huge page in bytes, usually 2 MiB; `None` where the kernel has none.
///
/// Source: `/sys/kernel/mm/transparent_hugepage/hpage_pmd_size`, Linux 4.10.
///
/// # Examples
/// ```
/// if let Some(huge) = stillmap::page::huge_size() {
///     assert_eq!(huge % stillmap::page::size(), 0);
/// }
/// ```
pub fn huge_size() -> Option<usize> {
    // 0: not known yet; 1: none. As in `size`.
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    let size = match SIZE.load(Ordering::Relaxed) {
        0 => {
            let size = sys::huge_page_size().filter(|size| size.is_power_of_two());
            let size = size.unwrap_or(1);
            SIZE.store(size, Ordering::Relaxed);
            size
        }
        size => size,
    };
    (size > 1).then_some(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers around the multiples of the page size, and around the largest number.
    fn numbers() -> impl Iterator<Item = usize> {
        let size = size();
        let near = |n: usize| (0..3).flat_map(move |d| [n.checked_add(d), n.checked_sub(d)]);
        [0, size, 2 * size, 7 * size, usize::MAX / 2, usize::MAX]
            .into_iter()
            .flat_map(near)
            .flatten()
    }

    #[test]
    fn rounding_agrees_with_wide_arithmetic() {
        let size = size() as u128;
        for n in numbers() {
            let up = (n as u128).div_ceil(size) * size;
            assert_eq!(align_up(n), usize::try_from(up).ok(), "up {n}");
            assert_eq!(align_down(n) as u128, n as u128 / size * size, "down {n}");
        }
    }
}
