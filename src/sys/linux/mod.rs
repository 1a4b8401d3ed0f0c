//! The system calls of Linux.

pub(crate) mod atfork;
pub(crate) mod clock;
pub(crate) mod credentials;
pub(crate) mod descriptor;
pub(crate) mod dir;
pub(crate) mod file;
pub(crate) mod futex;
pub(crate) mod lease;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod mlock;
pub(crate) mod object;
pub(crate) mod pages;
pub(crate) mod process;
pub(crate) mod racy_copy;
pub(crate) mod signal;
mod signal_mask;
pub(crate) mod space;
pub(crate) mod statfs;
pub(crate) mod sync;
pub(crate) mod thread;
pub(crate) mod unnamed;
pub(crate) mod userfault;
pub(crate) mod vfork;
pub(crate) mod write;
pub(crate) mod xattr;

pub(crate) use super::unix::*;
use std::io;

/// A length or offset as the kernel takes it, or `EFBIG`.
fn to_off_t(n: u64) -> io::Result<i64> {
    i64::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

/// Runs a system call that gives -1 and errno on failure, again while it is interrupted.
pub(crate) fn retry_eintr<T: Copy + PartialEq + From<i8>>(
    mut f: impl FnMut() -> T,
) -> io::Result<T> {
    loop {
        let value = f();
        if value != T::from(-1) {
            return Ok(value);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// True for a call that failed because the kernel does not know it, or because a seccomp filter refuses it: old filters
/// refuse calls that they do not know with `EPERM`. For calls that need no privilege; for others `EPERM` has its own meaning.
pub(crate) fn is_call_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// `/sys/kernel/mm/transparent_hugepage/hpage_pmd_size`, in bytes.
pub(crate) fn huge_page_size() -> Option<usize> {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size");
    text.ok()?.trim().parse().ok()
}

/// False if the kernel gives this process no transparent huge pages, not even where they are asked for.
pub(crate) fn are_huge_pages_enabled() -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    // SAFETY: PR_GET_THP_DISABLE of prctl(2) takes zeros and returns a number.
    let disabled = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) };
    disabled == 0 && setting.is_ok_and(|setting| !setting.contains("[never]"))
}
