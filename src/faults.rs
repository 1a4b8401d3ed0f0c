//! Page faults: how often a thread waited for the kernel to map a page.

use crate::sys;
use std::fmt;
use std::ops::Sub;

/// Numbers of page faults.
///
/// # Examples
/// ```
/// use stillmap::{Anonymous, faults, page};
/// let mut memory = Anonymous::new(100 * page::size())?;
/// let before = faults::of_thread();
/// memory[50 * page::size()] = 1;
/// let faults = faults::of_thread() - before;
/// assert!(faults.minor >= 1, "{faults}");
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Faults {
    /// Faults that needed no I/O: the page was in RAM already, or was made of zeros.
    pub minor: u64,
    /// Faults that waited for a device.
    pub major: u64,
}

/// The faults of the calling thread since it started. One fault can bring many pages: a huge page, or those around
/// the one that was touched.
///
/// Source: getrusage(2), `RUSAGE_THREAD`, Linux 2.6.26. Elsewhere they are not counted: 0.
///
/// # Examples
/// ```
/// println!("{}", stillmap::faults::of_thread());
/// ```
#[doc(alias("getrusage", "ru_minflt", "ru_majflt"))]
pub fn of_thread() -> Faults {
    let (minor, major) = sys::pages::faults();
    Faults { minor, major }
}

/// The difference of two counts; 0 where the second is larger, as it may be on another thread.
impl Sub for Faults {
    type Output = Faults;

    fn sub(self, before: Faults) -> Faults {
        Faults {
            minor: self.minor.saturating_sub(before.minor),
            major: self.major.saturating_sub(before.major),
        }
    }
}

/// `12 minor, 3 major`
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} minor, {} major", self.minor, self.major)
    }
}
