//! Gives a file without a name its name: linkat and renameat, in a process of their own where a name is taken already.
//!
//! linkat(2) does not replace, so replacing takes two steps, and a name that nobody asked for exists between them. A
//! process that is killed there would leave it behind. So the two steps are done by a helper process, which lives in a
//! session of its own: a SIGKILL for this process, its process group or its terminal does not reach it, and it has
//! ended before this process goes on.

use super::call;
use super::write::Blocked;
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// linkat(2) of an open file to a name that must not exist yet.
pub(crate) fn link(fd: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    let (fd, dir) = (fd.as_raw_fd(), dir.as_raw_fd());
    let from = proc_path(fd);
    let flags = libc::AT_SYMLINK_FOLLOW;
    // SAFETY: linkat(2) reads two C strings and touches no other memory of ours.
    let linked =
        call(|| unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), dir, name.as_ptr(), flags) });
    match linked {
        // Without /proc; Linux 6.10, or CAP_DAC_READ_SEARCH before.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
            let flags = libc::AT_EMPTY_PATH;
            // SAFETY: as above.
            call(|| unsafe { libc::linkat(fd, c"".as_ptr(), dir, name.as_ptr(), flags) }).map(drop)
        }
        other => other.map(drop),
    }
}

fn proc_path(fd: i32) -> CString {
    CString::new(format!("/proc/self/fd/{fd}")).unwrap_or_default()
}

/// renameat(2) inside one directory: whatever `to` was is replaced in one step.
pub(crate) fn rename(dir: BorrowedFd<'_>, from: &CStr, to: &CStr) -> io::Result<()> {
    let dir = dir.as_raw_fd();
    // SAFETY: renameat(2) reads two C strings and touches no other memory of ours.
    call(|| unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) }).map(drop)
}

/// The same, but `EEXIST` if there is a `to` (renameat2(2) `RENAME_NOREPLACE`, Linux 3.15). A file system that does
/// not know it gets a second link and loses the first.
pub(crate) fn rename_new(dir: BorrowedFd<'_>, from: &CStr, to: &CStr) -> io::Result<()> {
    let (raw, flags) = (dir.as_raw_fd(), libc::RENAME_NOREPLACE);
    let (was, will) = (from.as_ptr(), to.as_ptr());
    // By its number: musl has no function for it.
    // SAFETY: renameat2(2) reads two C strings and touches no other memory of ours.
    let renamed =
        call(|| unsafe { libc::syscall(libc::SYS_renameat2, raw, was, raw, will, flags) });
    match renamed.map_err(|e| (e.raw_os_error(), e)) {
        Err((Some(libc::EINVAL | libc::ENOSYS), _)) => {
            // SAFETY: linkat(2) reads two C strings and touches no other memory of ours.
            call(|| unsafe { libc::linkat(raw, from.as_ptr(), raw, to.as_ptr(), 0) })?;
            unlink(dir, from)
        }
        other => other.map(drop).map_err(|(_, e)| e),
    }
}

/// unlinkat(2).
pub(crate) fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: unlinkat(2) reads a C string and touches no other memory of ours.
    call(|| unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

/// The step of [`replace`] that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Link,
    Rename,
}

/// Puts an open file without a name in the place of `target`, by way of the name `passing`: `EEXIST` at
/// [`Step::Link`] if that exists.
pub(crate) fn replace(
    fd: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    passing: &CStr,
    target: &CStr,
) -> Result<(), (Step, io::Error)> {
    let job = Job {
        from: proc_path(fd.as_raw_fd()),
        fd: fd.as_raw_fd(),
        dir: dir.as_raw_fd(),
        passing,
        target,
        state: Cell::new(State::Waiting),
    };
    in_a_process_of_its_own(&job);
    if matches!(job.state.get(), State::Waiting | State::Linked) {
        // No process could be made, or somebody killed it.
        job.go_on();
    }
    match job.state.get() {
        State::Done => Ok(()),
        State::Failed(step, errno) => Err((step, io::Error::from_raw_os_error(errno))),
        State::Waiting | State::Linked => Err((Step::Link, io::ErrorKind::Other.into())),
    }
}

/// What the helper does. It shares our memory and runs while this thread waits, so it makes system calls and nothing
/// else: no allocation, no lock.
struct Job<'a> {
    from: CString,
    fd: i32,
    dir: i32,
    passing: &'a CStr,
    target: &'a CStr,
    state: Cell<State>,
}

#[derive(Clone, Copy)]
enum State {
    Waiting,
    /// The name in passing exists.
    Linked,
    Done,
    Failed(Step, i32),
}

impl Job<'_> {
    fn go_on(&self) {
        let (dir, passing) = (self.dir, self.passing.as_ptr());
        let resumed = matches!(self.state.get(), State::Linked);
        if matches!(self.state.get(), State::Waiting) {
            let follow = libc::AT_SYMLINK_FOLLOW;
            // SAFETY: linkat(2) reads two C strings and touches no other memory of ours.
            let mut done = call(|| unsafe {
                libc::linkat(libc::AT_FDCWD, self.from.as_ptr(), dir, passing, follow)
            });
            if errno(&done) == Some(libc::ENOENT) {
                let empty = c"".as_ptr();
                // SAFETY: as above.
                done = call(|| unsafe {
                    libc::linkat(self.fd, empty, dir, passing, libc::AT_EMPTY_PATH)
                });
            }
            if let Some(errno) = errno(&done) {
                return self.state.set(State::Failed(Step::Link, errno));
            }
            self.state.set(State::Linked);
        }
        // SAFETY: renameat(2) reads two C strings and touches no other memory of ours.
        let done = call(|| unsafe { libc::renameat(dir, passing, dir, self.target.as_ptr()) });
        self.state.set(match errno(&done) {
            None => State::Done,
            // Whoever was killed had done it.
            Some(libc::ENOENT) if resumed => State::Done,
            Some(errno) => {
                // SAFETY: unlinkat(2) reads a C string and touches no other memory of ours.
                let _ = call(|| unsafe { libc::unlinkat(dir, passing, 0) });
                State::Failed(Step::Rename, errno)
            }
        });
    }
}

/// The errno of a failed call; making an `io::Error` of one allocates nothing.
fn errno(done: &io::Result<i32>) -> Option<i32> {
    done.as_ref().err().map(|e| e.raw_os_error().unwrap_or(0))
}

/// Room for the helper's few calls.
const STACK: usize = 64 << 10;

/// Runs the job as posix_spawn(3) runs its child: in a new process that borrows our memory (`CLONE_VM`) while this
/// thread stands still (`CLONE_VFORK`). If this process is killed meanwhile, the memory lives until the helper ends.
fn in_a_process_of_its_own(job: &Job<'_>) {
    extern "C" fn main(job: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the thread that waits for us holds the job.
        let job = unsafe { &*job.cast::<Job<'_>>() };
        // What is sent to the process group or by the terminal is for those who know of it.
        // SAFETY: setsid(2) touches no memory.
        unsafe { libc::setsid() };
        job.go_on();
        0
    }
    let mut stack = Box::<[u128]>::new_uninit_slice(STACK / size_of::<u128>());
    let top = stack.as_mut_ptr_range().end.cast::<libc::c_void>();
    let argument = ptr::from_ref(job).cast_mut().cast();
    // No signal handler may run in the helper: it would run on our memory, in the wrong process.
    let blocked = Blocked::all(&[]);
    // No exit signal (the low byte is 0): the host program's SIGCHLD handler and wait(2) hear nothing of it.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK;
    // SAFETY:
    // - The stack is ours, aligned, and unused; it and the job outlive the helper, because CLONE_VFORK lets this
    //   thread go on only when the helper has ended.
    // - The helper makes system calls only. Its errno is this thread's, which stands still.
    let id = unsafe { libc::clone(main, top, flags, argument) };
    drop(blocked);
    if id > 0 {
        let mut status = MaybeUninit::<i32>::uninit();
        // SAFETY: waitpid(2) writes one int to the pointer, which has room for it.
        let _ = call(|| unsafe { libc::waitpid(id, status.as_mut_ptr(), libc::__WCLONE) });
    }
}
