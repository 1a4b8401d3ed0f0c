//! System calls for file leases (fcntl(2), "Leases") and for the thread that waits for their breaks.

use super::call;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

/// What the kernel tells a broken lease by. Its default action is to do nothing: should it reach a thread that does not
/// wait for it, in the moment between `F_SETLEASE` and `F_SETOWN_EX`, no harm is done. And it does not queue: any
/// number of breaks is one pending signal, which cannot overflow.
const SIGNAL: i32 = libc::SIGURG;

/// What a lease holds off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Lease {
    /// Opens for writing, and truncations.
    Read = libc::F_RDLCK,
    /// Every open, and truncations.
    Write = libc::F_WRLCK,
}

/// Takes a lease, whose break is told to `thread`. The kernel refuses with `EAGAIN` if somebody has the file open
/// already in the way that the lease holds off, `EACCES` for a file of another owner, `EINVAL` where there are none.
pub(crate) fn take(fd: BorrowedFd<'_>, lease: Lease, thread: i32) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // Before the lease: a break would be told by SIGIO otherwise, which kills.
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    call(|| unsafe { libc::fcntl(fd, F_SETSIG, SIGNAL) })?;
    // SAFETY: as above.
    call(|| unsafe { libc::fcntl(fd, libc::F_SETLEASE, lease as i32) })?;
    let owner = FOwner {
        kind: F_OWNER_TID,
        id: thread,
    };
    // After the lease: F_SETLEASE makes the process the owner.
    // SAFETY: this fcntl(2) reads one `struct f_owner_ex`.
    let owned = call(|| unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const owner) });
    owned.map(drop).inspect_err(|_| {
        // SAFETY: as above.
        let _ = call(|| unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) });
    })
}

const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;
const F_OWNER_TID: i32 = 0;

/// `struct f_owner_ex`, fcntl(2).
#[repr(C)]
struct FOwner {
    kind: i32,
    id: i32,
}

/// True unless somebody waits to open the file, or the kernel has taken the lease away.
pub(crate) fn is_held(fd: BorrowedFd<'_>, lease: Lease) -> bool {
    // SAFETY: this fcntl(2) takes no argument and touches no memory of ours.
    let held = call(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETLEASE) });
    held.is_ok_and(|held| held == lease as i32)
}

/// What came of giving a lease back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Released {
    /// It held until now.
    Given,
    /// The kernel had taken it away by force before.
    Taken,
    /// It is still there: the process has changed its user since. It goes with its last descriptor.
    Stuck,
}

/// Gives a lease back.
pub(crate) fn release(fd: BorrowedFd<'_>) -> Released {
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    let done = call(|| unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) });
    match done.map_err(|e| e.raw_os_error()) {
        Ok(_) => Released::Given,
        Err(Some(libc::EACCES)) => Released::Stuck,
        Err(_) => Released::Taken,
    }
}

/// True if the sysctl `fs.leases-enable` is 0.
pub(crate) fn are_off() -> bool {
    let text = std::fs::read_to_string("/proc/sys/fs/leases-enable").unwrap_or_default();
    text.trim() == "0"
}

/// How long a break may take before the kernel takes the lease away: `/proc/sys/fs/lease-break-time`.
pub(crate) fn break_time() -> Duration {
    const NEVER: u64 = 24 * 60 * 60;
    let text = std::fs::read_to_string("/proc/sys/fs/lease-break-time").unwrap_or_default();
    // fs/locks.c: 0 or less is no limit.
    match text.trim().parse::<i64>() {
        Ok(seconds) => Duration::from_secs(
            u64::try_from(seconds).map_or(NEVER, |s| if s == 0 { NEVER } else { s }),
        ),
        Err(_) => Duration::from_secs(45),
    }
}

/// Waits until a lease of this thread is broken, or for as long as `timeout` says: true if the kernel told of a break.
/// Every signal must be blocked.
pub(crate) fn wait_for_break(timeout: Option<Duration>) -> bool {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset(3) initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: initialised above; the signal number is valid.
    unsafe { libc::sigaddset(set.as_mut_ptr(), SIGNAL) };
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        // Below 10^9.
        tv_nsec: timeout.subsec_nanos() as _,
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: the set is initialised; the timeout is null or one `struct timespec`; one siginfo is written.
    let signal = unsafe { libc::sigtimedwait(set.as_ptr(), info.as_mut_ptr(), timeout) };
    if signal != SIGNAL {
        return false;
    }
    // SAFETY: zeroed is a valid siginfo, and the call filled it.
    let info = unsafe { info.assume_init() };
    if matches!(info.si_code, libc::SI_USER | libc::SI_QUEUE) {
        give_to_main_thread(&info);
    }
    true
}

/// Somebody sent the process a signal of this number, which every other thread had blocked: it is not for us.
fn give_to_main_thread(info: &libc::siginfo_t) {
    let process = std::process::id();
    let call = libc::SYS_rt_tgsigqueueinfo;
    // SAFETY: rt_tgsigqueueinfo(2) reads one siginfo.
    unsafe { libc::syscall(call, process, process, SIGNAL, ptr::from_ref(info)) };
}

/// Lets a thread that waits for a break look for one.
pub(crate) fn wake(thread: i32) {
    let process = std::process::id();
    // SAFETY: tgkill(2) touches no memory of ours; the signal is one that the thread waits for.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGNAL) };
}
