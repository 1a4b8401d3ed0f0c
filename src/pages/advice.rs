//! What can be told to the kernel about pages without changing a byte of them.

use crate::sys;

/// What the kernel should know about a range of pages.
///
/// Everything here leaves the bytes as they are, so it is safe on every type and at any time. What destroys bytes
/// (`MADV_DONTNEED`, `MADV_FREE`, `MADV_REMOVE`, `MADV_WIPEONFORK`, guards, poison) is not here:
/// [`Anonymous::discard`](crate::Anonymous::discard) does the useful part of it. Nor are `MADV_DONTFORK` and
/// `MADV_DOFORK`: a forked child would miss memory that it holds references to.
///
/// Advice goes to whole pages. A page that the range holds in part only is taken or left, as the last column says;
/// the bytes of a page in front of the mapping's first byte and behind its last are nobody's, and never decide.
///
/// | advice | for | page in part | Linux |
/// |---|---|---|---|
/// | `Normal`, `Sequential`, `Random` | readahead from files | taken | 2.4 |
/// | `WillNeed`, `PopulateRead`, `PopulateWrite` | bringing pages in | taken | 2.4, 5.14 |
/// | `Cold`, `PageOut` | letting them go | left | 5.4 |
/// | `HugePage`, `NoHugePage`, `Collapse` | the size of pages | taken | 2.6.38, 6.1 |
/// | `DontDump` | hiding secrets from a core dump | taken | 3.4 |
/// | `DoDump` | showing them again | left | 3.4 |
/// | `Mergeable` | sharing equal pages | left | 2.6.32 |
/// | `Unmergeable` | not sharing them | taken | 2.6.32 |
///
/// Source: madvise(2).
///
/// # Examples
/// ```
/// use stillmap::Advice;
/// let bytes = stillmap::open("Cargo.toml")?;
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
    /// From low to high addresses: read far ahead, and let go soon behind.
    #[doc(alias = "MADV_SEQUENTIAL")]
    Sequential,
    /// In no order: reading ahead would be wasted.
    #[doc(alias = "MADV_RANDOM")]
    Random,
    /// Needed soon: start reading it in now. [`Pages::prefetch`](crate::Pages::prefetch) does it in the background.
    #[doc(alias = "MADV_WILLNEED")]
    WillNeed,
    /// Not needed soon: the first to go when RAM gets short. An error where pages are locked.
    #[doc(alias = "MADV_COLD")]
    Cold,
    /// Not needed for long: out of RAM now, to the file or to swap. It comes back when it is touched.
    /// An error where pages are locked.
    #[doc(alias = "MADV_PAGEOUT")]
    PageOut,
    /// In huge pages where the kernel can (it must have `CONFIG_TRANSPARENT_HUGEPAGE`).
    #[doc(alias = "MADV_HUGEPAGE")]
    HugePage,
    /// In small pages only.
    #[doc(alias = "MADV_NOHUGEPAGE")]
    NoHugePage,
    /// Copy what is there into huge pages now, rather than in the background: the huge pages that hold the range, as
    /// far as they lie in the mapping. An error says that not all could be had.
    #[doc(alias = "MADV_COLLAPSE")]
    Collapse,
    /// Fault the pages in for reading. The same as [`Pages::populate`](crate::Pages::populate) on files.
    #[doc(alias = "MADV_POPULATE_READ")]
    PopulateRead,
    /// Fault the pages in for writing: as if every page had been written to, with the byte that it held. Pages of a
    /// file become dirty, and an error says that a page is not writable.
    #[doc(alias = "MADV_POPULATE_WRITE")]
    PopulateWrite,
    /// Not in a core dump.
    #[doc(alias = "MADV_DONTDUMP")]
    DontDump,
    /// In a core dump again.
    #[doc(alias = "MADV_DODUMP")]
    DoDump,
    /// Pages of equal bytes may be kept once (KSM, `CONFIG_KSM`), of private memory only. How long a write takes can
    /// tell others on the machine that they hold the same bytes: nothing for secrets.
    #[doc(alias("MADV_MERGEABLE", "KSM"))]
    Mergeable,
    /// Ends `Mergeable`, and takes shared pages apart.
    #[doc(alias = "MADV_UNMERGEABLE")]
    Unmergeable,
}

impl Advice {
    /// Whether the running kernel knows it. What it then makes of it is its own affair.
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

    /// What becomes of a page that the range holds in part only. It is left alone where the advice could cost the bytes
    /// beside the range something: time, or being hidden.
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

/// Which pages a range takes that holds its first and last page in part only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    /// These pages too.
    Outward,
    /// Not these pages.
    Inward,
    /// The whole of each huge page.
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
    fn each_has_a_number_of_its_own_and_none_destroys_bytes() {
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
