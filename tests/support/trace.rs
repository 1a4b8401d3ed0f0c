//! Stops a child before and after each of its system calls, and those of the processes that it starts: ptrace(2).

use super::child::fork;
use super::skip;
use std::io;
use std::ptr;

/// A child that calls [`stop_here`] first, stopped there.
pub struct Traced {
    main: libc::pid_t,
    /// Whoever else it started, stopped or running.
    others: Vec<libc::pid_t>,
    /// Who made the last stop.
    at: libc::pid_t,
}

/// In the child: traced by the parent from here on.
pub fn stop_here() {
    // SAFETY: plain numbers.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0), 0);
        libc::raise(libc::SIGSTOP);
    }
}

impl Traced {
    /// False, after saying why, where processes may not be traced. Only in a scenario.
    pub fn is_possible() -> bool {
        // SAFETY: plain numbers, in a process that ends.
        let asked = fork(|| assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }, 0));
        let possible = asked.wait().success();
        if !possible {
            skip("ptrace is refused");
        }
        possible
    }

    pub fn new(child: libc::pid_t) -> Self {
        let (id, status) = wait(child).expect("the child stops");
        assert!(id == child && libc::WIFSTOPPED(status), "{status:#x}");
        let options = libc::PTRACE_O_TRACESYSGOOD
            | libc::PTRACE_O_TRACECLONE
            | libc::PTRACE_O_TRACEFORK
            | libc::PTRACE_O_TRACEVFORK;
        // SAFETY: plain numbers.
        let set = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, child, 0, options) };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
        Traced {
            main: child,
            others: Vec::new(),
            at: child,
        }
    }

    /// Lets whoever is stopped go on to the next stop of anybody; false when the child has ended.
    pub fn step(&mut self) -> bool {
        resume(self.at, libc::PTRACE_SYSCALL);
        loop {
            let Some((id, status)) = wait(-1) else {
                return false;
            };
            if libc::WIFSTOPPED(status) {
                if id != self.main && !self.others.contains(&id) {
                    self.others.push(id);
                }
                self.at = id;
                return true;
            }
            if id == self.main {
                return false;
            }
            self.others.retain(|&other| other != id);
        }
    }

    /// True if the last stop was one of a process that the child started.
    pub fn is_at_other(&self) -> bool {
        self.at != self.main
    }

    /// Kills the child and nobody else; who else it started goes on, untraced.
    pub fn kill_main(self) {
        kill(self.main);
        for &other in &self.others {
            resume(other, libc::PTRACE_DETACH);
        }
        // Some were not stopped just now, or are so new that nobody knows them yet.
        while let Some((id, status)) = wait(-1) {
            if libc::WIFSTOPPED(status) && id != self.main {
                resume(id, libc::PTRACE_DETACH);
            }
        }
    }

    /// Kills the process that the child started, and lets the child go on; gives how it ended.
    pub fn kill_other(self) -> i32 {
        assert!(self.is_at_other());
        kill(self.at);
        loop {
            match wait(-1) {
                Some((id, status)) if id == self.main => {
                    if !libc::WIFSTOPPED(status) {
                        return status;
                    }
                    resume(self.main, libc::PTRACE_CONT);
                }
                // It may start another one.
                Some((id, status)) if libc::WIFSTOPPED(status) => resume(id, libc::PTRACE_DETACH),
                Some(_) => {}
                None => panic!("the child is gone"),
            }
        }
    }
}

fn kill(id: libc::pid_t) {
    // SAFETY: a process of ours, not waited for yet.
    unsafe { libc::kill(id, libc::SIGKILL) };
}

fn resume(id: libc::pid_t, how: libc::c_uint) {
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: a stopped process that we trace, or ESRCH; no signal is passed on.
    unsafe { libc::ptrace(how, id, none, none) };
}

fn wait(id: libc::pid_t) -> Option<(libc::pid_t, i32)> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    let id = unsafe { libc::waitpid(id, &mut status, libc::__WALL) };
    (id > 0).then_some((id, status))
}
