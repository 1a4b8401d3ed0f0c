//! madvise(2) advice, by memmap2's names.

use std::io;

use crate::locks::checked;

/// Advice that leaves the bytes alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    Normal,
    Random,
    Sequential,
    WillNeed,
    Mergeable,
    Unmergeable,
    HugePage,
    NoHugePage,
    DontDump,
    DoDump,
    PopulateRead,
    PopulateWrite,
}

impl Advice {
    /// Whether the kernel knows it.
    pub fn is_supported(self) -> bool {
        stillmap::Advice::from(self).is_supported()
    }
}

impl From<Advice> for stillmap::Advice {
    fn from(advice: Advice) -> Self {
        match advice {
            Advice::Normal => stillmap::Advice::Normal,
            Advice::Random => stillmap::Advice::Random,
            Advice::Sequential => stillmap::Advice::Sequential,
            Advice::WillNeed => stillmap::Advice::WillNeed,
            Advice::Mergeable => stillmap::Advice::Mergeable,
            Advice::Unmergeable => stillmap::Advice::Unmergeable,
            Advice::HugePage => stillmap::Advice::HugePage,
            Advice::NoHugePage => stillmap::Advice::NoHugePage,
            Advice::DontDump => stillmap::Advice::DontDump,
            Advice::DoDump => stillmap::Advice::DoDump,
            Advice::PopulateRead => stillmap::Advice::PopulateRead,
            Advice::PopulateWrite => stillmap::Advice::PopulateWrite,
        }
    }
}

/// Advice that changes bytes: pages read as zero, or as the file has them, afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UncheckedAdvice {
    DontNeed,
    Free,
    Remove,
}

impl UncheckedAdvice {
    /// Advises whole pages around `len` bytes.
    ///
    /// # Safety
    /// The pages are a mapping's own, of which no reference to a byte is alive.
    pub(crate) unsafe fn apply(self, start: *const u8, len: usize) -> io::Result<()> {
        let inside = start.addr() % stillmap::page::size();
        let start = start.wrapping_sub(inside).cast_mut().cast();
        // SAFETY: the caller's promise.
        #[expect(clippy::disallowed_methods, reason = "stillmap gives no such advice")]
        let returned = unsafe { libc::madvise(start, len + inside, self.code()) };
        checked(returned)
    }

    pub(crate) fn code(self) -> i32 {
        match self {
            UncheckedAdvice::DontNeed => libc::MADV_DONTNEED,
            UncheckedAdvice::Free => libc::MADV_FREE,
            UncheckedAdvice::Remove => libc::MADV_REMOVE,
        }
    }

    /// Whether the kernel knows it.
    pub fn is_supported(self) -> bool {
        #[expect(clippy::disallowed_methods, reason = "stillmap gives no such advice")]
        // SAFETY: an empty range; nothing is advised.
        unsafe {
            libc::madvise(std::ptr::null_mut(), 0, self.code()) == 0
        }
    }
}
