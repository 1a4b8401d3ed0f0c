//! Stops a child before and after each of its system calls, and those of the processes that it starts: ptrace(2).

use super::child::fork;
use super::skip;
use std::io;
use std::ptr;

/// A child that calls [`stop_here`] first, stopped there.
pub struct Traced {
    main: libc::pid_t,
    /// The other processes that it started, stopped or running.
    others: Vec<libc::pid_t>,
    /// The process of the last stop.
    at: libc::pid_t,
    /// Whether that was at a system call, and not at something else that happens in one.
    in_call: bool,
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
            in_call: false,
        }
    }

    /// Continues the stopped process to the next stop of any of them; false when the child has ended.
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
                // PTRACE_O_TRACESYSGOOD.
                self.in_call = libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80;
                return true;
            }
            if id == self.main {
                return false;
            }
            self.others.retain(|&other| other != id);
        }
    }

    /// The number of the system call that the stopped process is about to make; `None` at any other stop.
    #[cfg(target_arch = "x86_64")]
    pub fn entering(&self) -> Option<libc::c_long> {
        let registers = self.registers();
        // The result register before the call is made, asm/unistd.h.
        let unmade = registers.rax == (-libc::ENOSYS as i64) as u64;
        let call = registers.orig_rax as libc::c_long;
        (self.in_call && unmade && call >= 0).then_some(call)
    }

    /// Makes the system call that is about to be made fail instead.
    #[cfg(target_arch = "x86_64")]
    pub fn fail(&mut self, errno: i32) {
        let mut registers = self.registers();
        registers.orig_rax = u64::MAX;
        self.set_registers(&registers);
        assert!(self.step(), "a call that is not made comes back");
        let mut registers = self.registers();
        registers.rax = -i64::from(errno) as u64;
        self.set_registers(&registers);
    }

    /// Clears bits of the first argument of the system call that is about to be made.
    #[cfg(target_arch = "x86_64")]
    pub fn clear_in_first_argument(&mut self, bits: u64) {
        let mut registers = self.registers();
        registers.rdi &= !bits;
        self.set_registers(&registers);
    }

    #[cfg(target_arch = "x86_64")]
    fn registers(&self) -> libc::user_regs_struct {
        let mut registers = std::mem::MaybeUninit::zeroed();
        let none = ptr::null_mut::<libc::c_void>();
        // SAFETY: writes one struct.
        let got = unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.at, none, &mut registers) };
        assert_eq!(got, 0, "{}", io::Error::last_os_error());
        // SAFETY: filled in above.
        unsafe { registers.assume_init() }
    }

    #[cfg(target_arch = "x86_64")]
    fn set_registers(&self, registers: &libc::user_regs_struct) {
        let none = ptr::null_mut::<libc::c_void>();
        // SAFETY: reads one struct.
        let set = unsafe { libc::ptrace(libc::PTRACE_SETREGS, self.at, none, registers) };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn entering(&self) -> Option<libc::c_long> {
        panic!("the test is ignored: the registers of x86-64 only are known")
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn fail(&mut self, _errno: i32) {
        panic!("as above")
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub fn clear_in_first_argument(&mut self, _bits: u64) {
        panic!("as above")
    }

    /// Lets the child go on without stops; gives how it ended.
    pub fn run_on(self) -> i32 {
        resume(self.at, libc::PTRACE_DETACH);
        loop {
            match wait(-1) {
                Some((id, status)) if libc::WIFSTOPPED(status) => resume(id, libc::PTRACE_DETACH),
                Some((id, status)) if id == self.main => return status,
                Some(_) => {}
                None => panic!("the child is gone"),
            }
        }
    }

    /// True if the last stop was one of a process that the child started.
    pub fn is_at_other(&self) -> bool {
        self.at != self.main
    }

    /// Kills the child only; the processes that it started continue, untraced.
    pub fn kill_main(self) {
        kill(self.main);
        for &other in &self.others {
            resume(other, libc::PTRACE_DETACH);
        }
        // Some are not stopped, or are so new that they are not known yet.
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

#[cfg(target_env = "gnu")]
type Request = libc::c_uint;
#[cfg(not(target_env = "gnu"))]
type Request = libc::c_int;

fn resume(id: libc::pid_t, how: Request) {
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: a stopped process that we trace, or ESRCH; no signal is passed on.
    unsafe { libc::ptrace(how, id, none, none) };
}

fn wait(id: libc::pid_t) -> Option<(libc::pid_t, i32)> {
    let mut status = 0;
    // SAFETY: `status` is valid for the result.
    let id = unsafe { libc::waitpid(id, &mut status, libc::__WALL) };
    (id > 0).then_some((id, status))
}
