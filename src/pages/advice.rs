//! Advice to the kernel about pages that changes no byte.

use crate::sys;

/// Advice to the kernel about a range of pages.
///
/// No advice changes a byte, so it is safe on every type and at any time. Advice that destroys bytes (`MADV_DONTNEED`,
/// `MADV_FREE`, `MADV_REMOVE`, `MADV_WIPEONFORK`, guards, poison) is left out;
/// [`Anonymous::discard`](crate::Anonymous::discard) replaces `MADV_DONTNEED` and `MADV_REMOVE`. So are `MADV_DONTFORK`
/// and `MADV_DOFORK`: a forked child would have references to memory that is not mapped.
///
/// Advice applies to whole pages. A page that is only partly in the range is included or excluded, as the third column
/// says. The bytes of a page before the first byte of the value and after its last belong to no value and are ignored.
///
/// | advice | for | partial page | Linux |
/// |---|---|---|---|
/// | `Normal`, `Sequential`, `Random` | readahead from files | included | 2.4 |
/// | `WillNeed`, `PopulateRead`, `PopulateWrite` | faulting pages in | included | 2.4, 5.14 |
/// | `Cold`, `PageOut` | reclaiming pages | excluded | 5.4 |
/// | `HugePage`, `NoHugePage`, `Collapse` | the size of pages | included | 2.6.38, 6.1 |
/// | `DontDump` | keeping secrets out of a core dump | included | 3.4 |
/// | `DoDump` | the opposite | excluded | 3.4 |
/// | `Mergeable` | sharing equal pages | excluded | 2.6.32 |
/// | `Unmergeable` | the opposite | included | 2.6.32 |
///
/// Source: madvise(2).
///
/// # Examples
/// ```
/// use stillmap::Advice;
/// let bytes = stillmap::Snapshot::open("Cargo.toml")?;
/// bytes.pages().advise(.., Advice::Sequential)?;
/// # Ok::<(), stillmap::Error>(())
/// ```
#[doc(alias("madvise", "posix_madvise"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// No particular order; the default. Ends `Sequential` and `Random`.
    #[doc(alias = "MADV_NORMAL")]
    Normal,
    /// From low to high addresses: read far ahead, and reclaim pages soon after they were used.
    #[doc(alias = "MADV_SEQUENTIAL")]
    Sequential,
    /// In random order: no readahead.
    #[doc(alias = "MADV_RANDOM")]
    Random,
    /// Needed soon: start reading it now. [`Pages::prefetch`](crate::Pages::prefetch) does it in the background.
    #[doc(alias = "MADV_WILLNEED")]
    WillNeed,
    /// Not needed soon: reclaimed first when memory is short. An error where pages are locked.
    #[doc(alias = "MADV_COLD")]
    Cold,
    /// Not needed for long: reclaimed now, to the file or to swap. A page that is touched is read again.
    /// An error where pages are locked.
    #[doc(alias = "MADV_PAGEOUT")]
    PageOut,
    /// Use huge pages where the kernel can (it must have `CONFIG_TRANSPARENT_HUGEPAGE`).
    #[doc(alias = "MADV_HUGEPAGE")]
    HugePage,
    /// Use small pages only.
    #[doc(alias = "MADV_NOHUGEPAGE")]
    NoHugePage,
    /// Copy the pages into huge pages now, not in the background: all huge pages that hold a part of the range and lie in
    /// the mapping. It fails if one of them could not be made.
    #[doc(alias = "MADV_COLLAPSE")]
    Collapse,
    /// Fault the pages in for reading. The same as [`Pages::populate`](crate::Pages::populate) on files.
    #[doc(alias = "MADV_POPULATE_READ")]
    PopulateRead,
    /// Fault the pages in for writing, as if a byte of each page had been overwritten with itself. Pages of a file become
    /// dirty. It fails if a page is not writable.
    #[doc(alias = "MADV_POPULATE_WRITE")]
    PopulateWrite,
    /// Exclude from core dumps. It does nothing for bytes in the heap, which [`Pages::lock`](crate::Pages::lock) refuses.
    #[doc(alias = "MADV_DONTDUMP")]
    DontDump,
    /// Include in core dumps again.
    #[doc(alias = "MADV_DODUMP")]
    DoDump,
    /// Private pages with equal bytes may share one page of RAM (KSM, `CONFIG_KSM`). The time that a write takes shows other
    /// processes that the bytes are the same: not for secrets.
    #[doc(alias("MADV_MERGEABLE", "KSM"))]
    Mergeable,
    /// Ends `Mergeable`, and copies the pages that are shared.
    #[doc(alias = "MADV_UNMERGEABLE")]
    Unmergeable,
}

impl Advice {
    /// Whether the running kernel knows it. Whether it has an effect is up to the kernel.
    ///
    /// # Examples
    /// ```
    /// assert!(stillmap::Advice::WillNeed.is_supported());
    /// ```
    pub fn is_supported(self) -> bool {
        sys::pages::is_advice_supported(self.code())
    }

    /// Its number in madvise(2).
    pub(super) fn code(self) -> i32 {
        match self {
            Advice::Normal => libc::MADV_NORMAL,
            Advice::Sequential => libc::MADV_SEQUENTIAL,
            Advice::Random => libc::MADV_RANDOM,
            Advice::WillNeed => libc::MADV_WILLNEED,
            Advice::Cold => libc::MADV_COLD,
            Advice::PageOut => libc::MADV_PAGEOUT,
            Advice::HugePage => libc::MADV_HUGEPAGE,
            Advice::NoHugePage => libc::MADV_NOHUGEPAGE,
            Advice::Collapse => sys::pages::COLLAPSE,
            Advice::PopulateRead => libc::MADV_POPULATE_READ,
            Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
            Advice::DontDump => libc::MADV_DONTDUMP,
            Advice::DoDump => libc::MADV_DODUMP,
            Advice::Mergeable => libc::MADV_MERGEABLE,
            Advice::Unmergeable => libc::MADV_UNMERGEABLE,
        }
    }

    /// Whether a page that is only partly in the range is included. It is excluded where the advice would slow down or
    /// expose the bytes outside of the range.
    pub(super) fn rounding(self) -> Rounding {
        match self {
            Advice::Cold | Advice::PageOut | Advice::DoDump | Advice::Mergeable => Rounding::Inward,
            Advice::Normal
            | Advice::Sequential
            | Advice::Random
            | Advice::WillNeed
            | Advice::HugePage
            | Advice::NoHugePage
            | Advice::PopulateRead
            | Advice::PopulateWrite
            | Advice::DontDump
            | Advice::Unmergeable => Rounding::Outward,
            Advice::Collapse => Rounding::ToHugePages,
        }
    }
}

/// Whether the first and last page of a range, if only partly in it, are included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// They are.
    Outward,
    /// They are not.
    Inward,
    /// All huge pages that hold a part of the range.
    ToHugePages,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ALL: [Advice; 15] = [
        Advice::Normal,
        Advice::Sequential,
        Advice::Random,
        Advice::WillNeed,
        Advice::Cold,
        Advice::PageOut,
        Advice::HugePage,
        Advice::NoHugePage,
        Advice::Collapse,
        Advice::PopulateRead,
        Advice::PopulateWrite,
        Advice::DontDump,
        Advice::DoDump,
        Advice::Mergeable,
        Advice::Unmergeable,
    ];

    #[test]
    fn codes_are_distinct_and_none_destroys_bytes() {
        let codes: BTreeSet<i32> = ALL.into_iter().map(Advice::code).collect();
        assert_eq!(codes.len(), ALL.len());
        let destroying = [
            libc::MADV_DONTNEED,
            libc::MADV_FREE,
            libc::MADV_REMOVE,
            libc::MADV_DONTFORK,
            libc::MADV_DOFORK,
            libc::MADV_HWPOISON,
            libc::MADV_WIPEONFORK,
            101, // MADV_SOFT_OFFLINE
            102, // MADV_GUARD_INSTALL
        ];
        assert!(destroying.iter().all(|code| !codes.contains(code)));
        let refused = |code: i32| sys::pages::advise(0..0, code).is_err();
        assert!(destroying.into_iter().all(refused));
        assert!(!codes.into_iter().any(refused));
    }
}
