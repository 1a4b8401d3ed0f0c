//! System calls for file leases (fcntl(2), "Leases") and for the thread that waits until they are broken. Nothing here
//! allocates.

use super::descriptor::{F_SETSIG, beyond_stdio};
use super::signal_mask::SignalMask;
use super::{retry_eintr, thread};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

/// The signal by which the kernel reports a broken lease. The C libraries reserve it (glibc: SIGCANCEL; musl: SIGTIMER): no
/// program can install a handler for it, block it or wait for it. So the program loses no signal. It is sent to a thread of
/// this crate, where it has no other meaning.
const SIGNAL: i32 = 32;

/// The signals by which the C library makes all threads change their user: never blocked.
#[cfg(target_env = "musl")]
const UNBLOCKED: u64 = 1 << (33 - 1) | 1 << (34 - 1);
#[cfg(not(target_env = "musl"))]
const UNBLOCKED: u64 = 1 << (33 - 1);

/// Size of the kernel's `sigset_t`.
const SIGSET_SIZE: usize = 8;

/// The opens that a lease blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Lease {
    /// Opens for writing, and truncations.
    Read = libc::F_RDLCK,
    /// Every open, and truncations.
    Write = libc::F_WRLCK,
}

/// Sets a lease whose break is reported to `thread`. The kernel refuses with `EAGAIN` if the file is open already in the
/// way that the lease blocks, `EACCES` for a file of another owner, `EINVAL` where there are no leases.
pub(crate) fn set(fd: BorrowedFd<'_>, lease: Lease, thread: i32) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    let owner = FOwner {
        kind: F_OWNER_TID,
        id: thread,
    };
    // Signal and owner first: F_SETLEASE keeps an owner that is set (lease_setup in fs/locks.c), so no break is reported
    // in another way.
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    retry_eintr(|| unsafe { libc::fcntl(fd, F_SETSIG, SIGNAL) })?;
    // SAFETY: this fcntl(2) reads one `struct f_owner_ex`.
    retry_eintr(|| unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const owner) })?;
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    retry_eintr(|| unsafe { libc::fcntl(fd, libc::F_SETLEASE, lease as i32) }).map(drop)
}

const F_GETSIG: i32 = 11;
const F_SETOWN_EX: i32 = 15;
const F_OWNER_TID: i32 = 0;

/// `struct f_owner_ex`, fcntl(2).
#[repr(C)]
struct FOwner {
    kind: i32,
    id: i32,
}

/// True for a descriptor with which [`set`] was called, and for duplicates of it.
pub(crate) fn is_reported(fd: RawFd) -> bool {
    // SAFETY: this fcntl(2) takes no argument and touches no memory of ours.
    retry_eintr(|| unsafe { libc::fcntl(fd, F_GETSIG) }).is_ok_and(|signal| signal == SIGNAL)
}

/// True unless another process is blocked by the lease, or the kernel has ended it.
pub(crate) fn is_held(fd: RawFd, lease: Lease) -> bool {
    // SAFETY: this fcntl(2) takes no argument and touches no memory of ours.
    let held = retry_eintr(|| unsafe { libc::fcntl(fd, libc::F_GETLEASE) });
    held.is_ok_and(|held| held == lease as i32)
}

/// Releases a lease. True if it was held until now; false if the kernel had ended it before, or does not allow the
/// release since the process has changed its user.
pub(crate) fn release(fd: RawFd) -> bool {
    // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
    retry_eintr(|| unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) }).is_ok()
}

/// True if the sysctl `fs.leases-enable` is 0.
pub(crate) fn are_off() -> bool {
    let text = std::fs::read_to_string("/proc/sys/fs/leases-enable").unwrap_or_default();
    text.trim() == "0"
}

/// `/proc/sys/fs/lease-break-time`, open for reading.
pub(crate) fn open_break_time() -> io::Result<OwnedFd> {
    let (path, flags) = (
        c"/proc/sys/fs/lease-break-time",
        libc::O_RDONLY | libc::O_CLOEXEC,
    );
    // SAFETY: the path is a C string.
    let fd = retry_eintr(|| unsafe { libc::open(path.as_ptr(), flags) })?;
    // SAFETY: the kernel just returned this descriptor, and no other code has it.
    beyond_stdio(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Time that the kernel waits for a holder before it ends a broken lease; `None` if it cannot be read, or is so long that
/// the kernel ends a lease at once: it computes ticks as an `int` (`__break_lease` in fs/locks.c).
pub(crate) fn break_time(file: RawFd) -> Option<Duration> {
    const NO_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
    /// With 1000 ticks in a second, the most that a kernel has.
    const SECONDS_MAX: i64 = i32::MAX as i64 / 1000;
    let mut text = [0_u8; 24];
    let start = text.as_mut_ptr().cast();
    // SAFETY: pread(2) writes at most as many bytes as `text` has.
    let n = retry_eintr(|| unsafe { libc::pread(file, start, text.len(), 0) }).ok()?;
    let text = std::str::from_utf8(text.get(..n.unsigned_abs())?).ok()?;
    // fs/locks.c: 0 or less is no limit.
    let seconds: i64 = text.trim().parse().ok()?;
    if seconds > SECONDS_MAX {
        return None;
    }
    Some(
        u64::try_from(seconds).map_or(NO_LIMIT, |seconds| match seconds {
            0 => NO_LIMIT,
            seconds => Duration::from_secs(seconds),
        }),
    )
}

/// Runs `f` under a write lease: no other descriptor has the file of `fd` open, and an open blocks. Does not run it if one
/// has it open, or if no lease is granted.
pub(crate) fn while_open_nowhere_else(fd: BorrowedFd<'_>, f: impl FnOnce()) {
    // If another process opens the file, this thread gets the signal, which is consumed below. If the user has as many
    // signals queued as RLIMIT_SIGPENDING allows, the kernel sends SIGIO instead, which would end the process.
    let _mask = SignalMask::block(&[libc::SIGIO]);
    let before = mask(libc::SIG_BLOCK, 1 << (SIGNAL - 1));
    if set(fd, Lease::Write, thread::id()).is_ok() {
        f();
        release(fd.as_raw_fd());
        // So that `is_reported` is false for it.
        // SAFETY: this fcntl(2) takes an integer and touches no memory of ours.
        let _ = retry_eintr(|| unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, 0) });
        wait(Some(Duration::ZERO));
    }
    mask(libc::SIG_SETMASK, before);
}

/// Blocks every signal in the calling thread, those included that the C library does not let a program block.
pub(crate) fn block_signals() {
    mask(libc::SIG_SETMASK, !UNBLOCKED);
}

/// Changes which signals the calling thread blocks, rt_sigprocmask(2), and returns which it did. Bit 0 is signal 1.
#[allow(clippy::useless_conversion)] // `c_ulong` has 32 bits on other targets
fn mask(how: i32, signals: u64) -> u64 {
    let set = kernel_sigset(signals);
    let mut before = kernel_sigset(0);
    // SAFETY: rt_sigprocmask(2) reads one set of the kernel's size, and writes one.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const set,
            &raw mut before,
            SIGSET_SIZE,
        )
    };
    let words = before.iter().rev();
    words.fold(0, |all, &word| {
        all.checked_shl(libc::c_ulong::BITS).unwrap_or(0) | u64::from(word)
    })
}

/// The kernel's set of signals: words of the machine, lowest signals first; bit 0 of `signals` is signal 1.
fn kernel_sigset(signals: u64) -> [libc::c_ulong; SIGSET_WORDS] {
    std::array::from_fn(|word| (signals >> (word as u32 * libc::c_ulong::BITS)) as libc::c_ulong)
}

const SIGSET_WORDS: usize = (u64::BITS / libc::c_ulong::BITS) as usize;

/// Waits in a thread with [`block_signals`] until a lease of it is broken: returns the number that the descriptor had when the
/// lease was set. `None` after this time, after [`wake`], and after any other signal.
pub(crate) fn wait(time: Option<Duration>) -> Option<RawFd> {
    let set = kernel_sigset(1 << (SIGNAL - 1));
    // The kernel's timespec, whatever the C library has.
    let timeout = time.map(|time| -> [libc::c_long; 2] {
        let seconds = time.as_secs().try_into().unwrap_or(libc::c_long::MAX);
        // Below 10^9.
        [seconds, time.subsec_nanos() as libc::c_long]
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mut info = MaybeUninit::<SigInfo>::zeroed();
    // SAFETY: rt_sigtimedwait(2) reads a set of the kernel's size and, unless it is null, one timespec; it writes one
    // siginfo, which is 128 bytes.
    let signal = unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const set,
            info.as_mut_ptr(),
            timeout,
            SIGSET_SIZE,
        )
    };
    // SAFETY: any bytes are a valid SigInfo.
    let info = unsafe { info.assume_init() };
    // The kernel's own signals have positive codes; those of tgkill(2) do not.
    if signal == libc::c_long::from(SIGNAL) && info.code > 0 {
        return Some(info.fd);
    }
    let errno = io::Error::last_os_error().raw_os_error();
    if signal < 0 && !matches!(errno, Some(libc::EINTR | libc::EAGAIN)) {
        // A seccomp filter that came after the thread refuses it: the caller checks all leases from time to time.
        std::thread::sleep(time.unwrap_or(REFUSED_MAX).min(REFUSED_MAX));
    }
    None
}

/// How long [`wait`] takes at most where the call is refused, and no signal ends it.
const REFUSED_MAX: Duration = Duration::from_secs(1);

/// `siginfo_t` of a signal that fcntl(2) asked for, sigaction(2).
#[repr(C)]
struct SigInfo {
    signal: i32,
    errno: i32,
    code: i32,
    #[cfg(target_pointer_width = "64")]
    padding: i32,
    band: libc::c_long,
    fd: i32,
    rest: [i32; if cfg!(target_pointer_width = "64") {
        25
    } else {
        27
    }],
}

const _: () = assert!(size_of::<SigInfo>() == 128);

/// Ends the [`wait`] of a thread of this process.
pub(crate) fn wake(thread: i32) {
    let process = std::process::id();
    // SAFETY: tgkill(2) touches no memory of ours; the thread waits for this signal.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, SIGNAL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An open that the lease blocks, while no signal can be queued: SIGIO ended the process.
    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    fn a_break_without_room_for_its_signal_does_not_end_the_process() {
        use crate::sys::process::{self, Fork};
        use std::os::fd::AsFd;
        use std::os::unix::fs::OpenOptionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let file = std::fs::File::create(&path).unwrap();
        // SAFETY: the child uses nothing of other threads.
        let child = match unsafe { process::fork() }.unwrap() {
            Fork::Parent { child } => child,
            Fork::Child => {
                let none = libc::rlimit {
                    rlim_cur: 0,
                    rlim_max: 0,
                };
                // SAFETY: reads one struct.
                unsafe { libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const none) };
                let mut was_blocked = true;
                while_open_nowhere_else(file.as_fd(), || {
                    let mut open = std::fs::OpenOptions::new();
                    let other = open.read(true).custom_flags(libc::O_NONBLOCK).open(&path);
                    was_blocked = other.is_err();
                });
                process::exit_immediately(i32::from(!was_blocked));
            }
        };
        let status = process::wait(child, None).unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
    }

    /// A filter of the program that does not know the call: the thread used up a processor.
    #[test]
    #[cfg_attr(miri, ignore = "forks")]
    #[cfg(target_arch = "x86_64")] // the number of the call, at the start of `struct seccomp_data`
    fn where_a_filter_refuses_to_wait_the_thread_sleeps() {
        use crate::sys::process::{self, Fork};
        let op = |code: u32, jf, k| libc::sock_filter {
            code: code as u16,
            jt: 0,
            jf,
            k,
        };
        let (load, equal, answer) = (
            libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            libc::BPF_RET | libc::BPF_K,
        );
        let refused = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
        let mut filter = [
            op(load, 0, 0),
            op(equal, 1, libc::SYS_rt_sigtimedwait as u32),
            op(answer, 0, refused),
            op(answer, 0, libc::SECCOMP_RET_ALLOW),
        ];
        // SAFETY: the child uses nothing of other threads.
        let child = match unsafe { process::fork() }.unwrap() {
            Fork::Parent { child } => child,
            Fork::Child => {
                let program = libc::sock_fprog {
                    len: filter.len() as u16,
                    filter: filter.as_mut_ptr(),
                };
                // SAFETY: takes numbers.
                unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
                let mode = libc::SECCOMP_MODE_FILTER;
                // SAFETY: reads one program.
                let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
                let start = std::time::Instant::now();
                let time = Duration::from_millis(50);
                let is_right = set == 0
                    && wait(Some(Duration::ZERO)).is_none()
                    && wait(Some(time)).is_none()
                    && start.elapsed() >= time;
                process::exit_immediately(i32::from(!is_right));
            }
        };
        let status = process::wait(child, None).unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
    }

    #[test]
    fn a_break_time_that_overflows_in_the_kernel_is_none() {
        use std::io::{Seek, Write};
        use std::os::fd::AsFd;
        let mut file = crate::sys::file::memfd(c"break-time").unwrap();
        let mut read = |text: &str| {
            file.set_len(0).unwrap();
            file.rewind().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            break_time(file.as_fd().as_raw_fd()).map(|time| time.as_secs())
        };
        assert_eq!(read("45\n"), Some(45));
        assert_eq!(read("0\n"), Some(24 * 60 * 60));
        assert_eq!(read("-1\n"), Some(24 * 60 * 60));
        assert_eq!(read("2147483\n"), Some(2_147_483));
        assert_eq!(read("2147484\n"), None);
        assert_eq!(read("2147483647\n"), None);
    }
}
