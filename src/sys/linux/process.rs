//! System calls on processes: fork, wait, pidfds, which threads there are.

use super::descriptor::beyond_stdio;
use super::retry_eintr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// What fork(2) returns to each side.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fork {
    Parent { child: i32 },
    Child,
}

/// fork(2).
///
/// # Safety
/// - No other thread of the process holds a lock, or memory half changed, that the child will use.
/// - The child does not use what only one process may own: it has a copy of every value.
pub(crate) unsafe fn fork() -> io::Result<Fork> {
    // SAFETY: the caller's promise.
    match retry_eintr(|| unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        child => Ok(Fork::Parent { child }),
    }
}

/// _exit(2): no atexit(3) handlers, no destructors, nothing flushed.
pub(crate) fn exit_immediately(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Ends the process with a message, given in parts.
pub(crate) fn abort(message: &[&[u8]]) -> ! {
    for part in message {
        // SAFETY: write(2) reads the part.
        let _ = unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    std::process::abort()
}

/// The kernel kills this process when the thread that forked it ends (`PR_SET_PDEATHSIG`, prctl(2)). False if the
/// parent has ended already.
pub(crate) fn set_parent_death_signal(parent: u32) -> bool {
    // SAFETY: this prctl(2) takes an integer. It fails for no valid signal.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: touches no memory.
    let now = unsafe { libc::getppid() };
    // 0: the parent is in an outer PID namespace and cannot be seen, pid_namespaces(7).
    now.unsigned_abs() == parent || now == 0
}

/// pipe2(2), close-on-exec: the end to read from, the end to write to.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: pipe2(2) writes two integers.
    retry_eintr(|| unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the kernel just returned this descriptor, and no other code has it.
    let reader = unsafe { OwnedFd::from_raw_fd(ends[0]) };
    // SAFETY: as above.
    let writer = unsafe { OwnedFd::from_raw_fd(ends[1]) };
    Ok((beyond_stdio(reader)?, beyond_stdio(writer)?))
}

/// The ids of the threads, proc_pid_task(5). One that starts or ends meanwhile may be missing.
pub(crate) fn threads() -> io::Result<Vec<i32>> {
    let tasks = fs::read_dir("/proc/self/task")?;
    let id = |task: fs::DirEntry| task.file_name().to_str().and_then(|id| id.parse().ok());
    let ids = tasks.map(|task| task.map(id));
    ids.filter_map(io::Result::transpose).collect()
}

/// The number of threads, including those that are ending.
pub(crate) fn thread_count() -> io::Result<usize> {
    stat_field("/proc/self/stat", 20)?.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// True if this process has one thread, without /proc: unshare(2) of `CLONE_THREAD` does nothing then, and otherwise fails
/// with `EINVAL`.
pub(crate) fn has_one_thread() -> bool {
    // SAFETY: takes an integer.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// True if a thread will never return to user space, or is gone.
pub(crate) fn is_exiting(thread: i32) -> io::Result<bool> {
    const PF_EXITING: usize = 4;
    match stat_field(&format!("/proc/self/task/{thread}/stat"), 9) {
        Ok(flags) => Ok(flags.is_some_and(|flags| flags & PF_EXITING != 0)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(true),
        Err(e) => Err(e),
    }
}

/// A number of proc_pid_stat(5), by its number there.
fn stat_field(path: &str, number: usize) -> io::Result<Option<usize>> {
    let stat = fs::read(path)?;
    let stat = String::from_utf8_lossy(&stat);
    // The second, a name in parentheses, may contain spaces.
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
    Ok(rest.and_then(|fields| fields.split_whitespace().nth(number - 3)?.parse().ok()))
}

/// pidfd_open(2), close-on-exec.
pub(crate) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers.
    let fd = retry_eintr(|| unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just returned this descriptor, and no other code has it.
    beyond_stdio(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// waitid(2): waits until a child ends, and reaps it.
pub(crate) fn wait(pid: i32, pidfd: Option<BorrowedFd<'_>>) -> io::Result<ExitStatus> {
    let (kind, id) = match pidfd {
        Some(fd) => (libc::P_PIDFD, fd.as_raw_fd()),
        None => (libc::P_PID, pid),
    };
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let wait = || {
        // SAFETY: waitid(2) writes one siginfo_t.
        unsafe { libc::waitid(kind, id as libc::id_t, info.as_mut_ptr(), libc::WEXITED) }
    };
    retry_eintr(wait)?;
    // SAFETY: zeroed, then filled in by waitid(2).
    let info = unsafe { info.assume_init() };
    // SAFETY: for a child that ended the kernel sets si_status.
    let status = unsafe { info.si_status() };
    Ok(ExitStatus::from_raw(match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    }))
}

/// How a child ended that was reaped by other code: ioctl(2) `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, Linux 6.15.
pub(crate) fn status_from_pidfd(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    /// `struct pidfd_info` of linux/pidfd.h, first version.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const PIDFD_GET_INFO: libc::Ioctl = libc::_IOWR::<Info>(0xff, 11);
    let mut info = Info {
        mask: PIDFD_INFO_EXIT,
        ..Info::default()
    };
    // SAFETY: this ioctl(2) reads and writes one `struct pidfd_info` of the size that is part of its number.
    let ioctl = || unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    retry_eintr(ioctl).ok()?;
    let known = info.mask & PIDFD_INFO_EXIT != 0;
    known.then(|| ExitStatus::from_raw(info.exit_code))
}
