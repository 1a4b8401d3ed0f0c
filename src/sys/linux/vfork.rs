//! A child process that borrows this process's memory, as posix_spawn(3) makes one: clone(2).

use super::retry_eintr;
use super::signal_mask::SignalMask;
use std::mem::MaybeUninit;
use std::ptr;

/// Stack of the child, in bytes: room for a few system calls.
const STACK: usize = 64 << 10;

/// Runs `f` in a child process with the memory of this one (`CLONE_VM`), while this thread is suspended
/// (`CLONE_VFORK`). If this process is killed meanwhile, the memory stays until the child has ended. The child has a
/// session of its own: a signal to the process group or from the terminal does not reach it.
///
/// If no process can be made, or there is no memory for its stack, `f` does not run. Under an emulator (valgrind) the child
/// may have a copy of the memory: then the stores of `f` are lost.
///
/// `f` may only make system calls: no allocation, no lock, no panic.
pub(crate) fn run(f: &dyn Fn()) {
    extern "C" fn main(f: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the suspended thread holds the reference, and the closure behind it, until this process has ended.
        let f = unsafe { *f.cast::<&dyn Fn()>() };
        // SAFETY: setsid(2) touches no memory.
        unsafe { libc::setsid() };
        f();
        0
    }
    let mut stack = Vec::<u128>::new();
    if stack.try_reserve_exact(STACK / size_of::<u128>()).is_err() {
        return;
    }
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end.cast();
    let argument = ptr::from_ref(&f).cast_mut().cast();
    // No signal handler may run in the child: it would run on our memory, in the wrong process.
    let mask = SignalMask::block_all(&[]);
    // No exit signal (the low byte is 0): the program's SIGCHLD handler and wait(2) do not see it.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK;
    // SAFETY:
    // - The stack is ours, aligned, and unused; it and the closure outlive the child, because CLONE_VFORK suspends this
    //   thread until the child has ended.
    // - The child makes system calls only. Its errno is this thread's, which is suspended.
    let id = unsafe { libc::clone(main, top, flags, argument) };
    drop(mask);
    if id > 0 {
        let mut status = MaybeUninit::<i32>::uninit();
        // SAFETY: waitpid(2) writes one int to the pointer, which has room for it.
        let _ = retry_eintr(|| unsafe { libc::waitpid(id, status.as_mut_ptr(), libc::__WCLONE) });
    }
}
