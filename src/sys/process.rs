//! System calls on processes: fork, wait, pidfds, which threads there are; and what a forked process does not inherit.

use super::call;
use super::memory::{self, Pages, Place};
use std::fs;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A value that each process has for itself: one forked from it, however it was forked, finds none and makes its own.
/// It is never dropped.
pub(crate) struct PerProcess<T: 'static>(OnceLock<Option<&'static AtomicPtr<T>>>);

impl<T: Sync> PerProcess<T> {
    pub(crate) const fn new() -> Self {
        PerProcess(OnceLock::new())
    }

    /// What this process has, if it was made already.
    pub(crate) fn get(&self) -> Option<&'static T> {
        let place = self.0.get().copied().flatten()?;
        // SAFETY: null, or a value that is never freed and shared as `Sync` allows; Acquire: it is seen whole.
        unsafe { place.load(Ordering::Acquire).as_ref() }
    }

    /// The same, made if need be; `None` where the kernel cannot keep it from a child.
    pub(crate) fn get_or_make(&self, make: impl FnOnce() -> T) -> Option<&'static T> {
        let place = (*self.0.get_or_init(wiped_on_fork))?;
        if self.get().is_none() {
            let new = Box::into_raw(Box::new(make()));
            let order = (Ordering::AcqRel, Ordering::Acquire);
            // Of two threads that come at once one is too late; what it made is a few words, once in a process.
            let _ = place.compare_exchange(ptr::null_mut(), new, order.0, order.1);
        }
        self.get()
    }
}

/// A place for a pointer that is null again in a forked child; `None` where the kernel cannot do that
/// (`MADV_WIPEONFORK`, Linux 4.14). It stays mapped.
fn wiped_on_fork<T>() -> Option<&'static AtomicPtr<T>> {
    let page = super::page_size();
    let start = memory::map_anonymous(page, Place::Anywhere, Pages::Zeroed).ok()?;
    // SAFETY: the page was mapped just now, and the advice acts on a forked child only.
    let wiped = unsafe { memory::advise(start, page, libc::MADV_WIPEONFORK) };
    if wiped.is_err() {
        // SAFETY: the page was mapped just now, and nobody refers to it.
        let _ = unsafe { memory::unmap(start, page) };
        return None;
    }
    // SAFETY: zeroed memory is a null AtomicPtr, a page is aligned for it, and it is never unmapped.
    Some(unsafe { start.cast().as_ref() })
}

/// What fork(2) gives to each side.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Parent { child: i32 },
    Child,
}

/// fork(2).
///
/// # Safety
/// - No other thread of the process holds a lock, or memory half changed, that the child will use.
/// - What only this process may own is not used by the child: it has a copy of every value.
pub(crate) unsafe fn fork() -> io::Result<Side> {
    // SAFETY: the caller's promise.
    match call(|| unsafe { libc::fork() })? {
        0 => Ok(Side::Child),
        child => Ok(Side::Parent { child }),
    }
}

/// _exit(2): no atexit(3) handlers, no destructors, nothing flushed.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process, and with it all that could notice.
    unsafe { libc::_exit(code) }
}

/// Ends the process with a message.
pub(crate) fn abort(message: &str) -> ! {
    // SAFETY: write(2) reads the message.
    let _ = unsafe { libc::write(2, message.as_ptr().cast(), message.len()) };
    std::process::abort()
}

/// getpid(2).
pub(crate) fn id() -> i32 {
    // SAFETY: touches no memory.
    unsafe { libc::getpid() }
}

/// Has the kernel kill this process when the thread that forked it ends (`PR_SET_PDEATHSIG`, prctl(2)). False if that
/// has happened already.
pub(crate) fn die_with(parent: i32) -> bool {
    // SAFETY: this prctl(2) takes an integer. It fails for no valid signal.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    // SAFETY: touches no memory.
    let now = unsafe { libc::getppid() };
    // 0: the parent is in an outer PID namespace and cannot be seen, pid_namespaces(7).
    now == parent || now == 0
}

/// pipe2(2), close-on-exec: the end to read from, the end to write to.
pub(crate) fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: pipe2(2) writes two integers.
    call(|| unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
    let reader = unsafe { OwnedFd::from_raw_fd(ends[0]) };
    // SAFETY: as above.
    let writer = unsafe { OwnedFd::from_raw_fd(ends[1]) };
    Ok((reader, writer))
}

/// How many threads there are beside this one and `known`. Zero: there was a moment without any, so there are none as
/// long as these two start none.
pub(crate) fn other_threads(known: Option<i32>) -> io::Result<usize> {
    let us = super::thread::id();
    loop {
        let (mut running, mut first_ended) = (0, 0);
        for task in fs::read_dir("/proc/self/task")? {
            let thread = task?.file_name();
            let thread = thread.to_str().and_then(|id| id.parse().ok());
            let Some(thread) = thread.filter(|&id: &i32| id != us && Some(id) != known) else {
                continue;
            };
            match is_exiting(thread)? {
                false => running += 1,
                // It stays as long as there are others.
                true if thread == id() => first_ended = 1,
                true => {}
            }
        }
        // The kernel's walk through the list ends early where a thread goes meanwhile, so one that was started may be
        // missing; its count is exact. It counts those that are about to go, too: pthread_join(3) returns a moment
        // before, so they are waited for.
        let ours = 1 + usize::from(known.is_some()) + first_ended;
        if running > 0 || threads()? == ours {
            return Ok(running);
        }
        super::signal::yield_now();
    }
}

/// How many threads the process has, those included that are about to be gone.
fn threads() -> io::Result<usize> {
    stat_field("/proc/self/stat", 20)?.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// True once a thread will never come back to user space, and when it is gone.
fn is_exiting(thread: i32) -> io::Result<bool> {
    const PF_EXITING: usize = 4;
    match stat_field(&format!("/proc/self/task/{thread}/stat"), 9) {
        Ok(flags) => Ok(flags.is_some_and(|flags| flags & PF_EXITING != 0)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(true),
        Err(e) => Err(e),
    }
}

/// A number of proc_pid_stat(5), by its place there.
fn stat_field(path: &str, place: usize) -> io::Result<Option<usize>> {
    let stat = fs::read(path)?;
    let stat = String::from_utf8_lossy(&stat);
    // The second, a name in parentheses, may hold spaces.
    let behind = stat.rsplit_once(')').map(|(_, behind)| behind);
    Ok(behind.and_then(|fields| fields.split_whitespace().nth(place - 3)?.parse().ok()))
}

/// A child of ours.
#[derive(Debug)]
pub(crate) struct ChildId {
    pid: i32,
    /// Stands for it even if somebody else reaps it and its number is given away again (Linux 5.3).
    pidfd: Option<OwnedFd>,
}

impl ChildId {
    /// For a child that was forked just now.
    pub(crate) fn new(pid: i32) -> Self {
        // SAFETY: pidfd_open(2) takes two integers.
        let fd = call(|| unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) });
        let pidfd = fd.ok().map(|fd| {
            // SAFETY: the kernel just gave us this descriptor (close-on-exec), and nobody else has it.
            unsafe { OwnedFd::from_raw_fd(fd as i32) }
        });
        ChildId { pid, pidfd }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until it ends, however long it is stopped, and reaps it. `ECHILD` if somebody else did, or SIGCHLD is
    /// ignored, and the kernel does not remember how it ended (it does since Linux 6.15).
    pub(crate) fn wait(&self) -> io::Result<ExitStatus> {
        let (kind, id) = match &self.pidfd {
            Some(fd) => (libc::P_PIDFD, fd.as_raw_fd()),
            None => (libc::P_PID, self.pid),
        };
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let wait = || {
            // SAFETY: waitid(2) writes one siginfo_t.
            unsafe { libc::waitid(kind, id as libc::id_t, info.as_mut_ptr(), libc::WEXITED) }
        };
        match call(wait) {
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => self.remembered().ok_or(e),
            Err(e) => Err(e),
            Ok(_) => {
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
        }
    }

    /// `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, Linux 6.15: how it ended, though somebody else reaped it.
    fn remembered(&self) -> Option<ExitStatus> {
        const EXIT: u64 = 1 << 3;
        /// `struct pidfd_info` of linux/pidfd.h, first version.
        #[repr(C)]
        #[derive(Default)]
        struct Info {
            mask: u64,
            cgroup: u64,
            ids: [u32; 11],
            exit_code: i32,
        }
        // _IOWR(0xFF, 11, struct pidfd_info), ioctl(2).
        const GET_INFO: u64 =
            (3 << 30) | ((mem::size_of::<Info>() as u64) << 16) | (0xff << 8) | 11;
        let fd = self.pidfd.as_ref()?.as_fd();
        let mut info = Info {
            mask: EXIT,
            ..Info::default()
        };
        // SAFETY: this ioctl(2) reads and writes one `struct pidfd_info` of the size that is part of its number.
        let done = call(|| unsafe { libc::ioctl(fd.as_raw_fd(), GET_INFO as _, &raw mut info) });
        let known = done.is_ok() && info.mask & EXIT != 0;
        known.then(|| ExitStatus::from_raw(info.exit_code))
    }
}
