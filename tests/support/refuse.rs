//! Makes the kernel refuse system calls of this process with an errno of our choice: a seccomp filter, seccomp(2).
//! It cannot be taken back, so it belongs into a scenario's child.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// One system call to refuse.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    pub call: libc::c_long,
    pub errno: i32,
    /// Only if the argument of this number (from 0), masked, is this: (number, mask, value).
    pub argument: Option<(u32, u32, u32)>,
}

/// What the C library calls for mmap(2), fcntl(2) and ftruncate(2) with offsets of 64 bits.
#[cfg(target_pointer_width = "64")]
pub use libc::{SYS_fcntl as FCNTL, SYS_ftruncate as FTRUNCATE, SYS_mmap as MMAP};
#[cfg(target_pointer_width = "32")]
pub use libc::{SYS_fcntl64 as FCNTL, SYS_ftruncate64 as FTRUNCATE, SYS_mmap2 as MMAP};

/// The call of sync_file_range(2): where numbers of 64 bits start at an even register it is another one.
#[cfg(not(any(target_arch = "powerpc", target_arch = "powerpc64")))]
pub use libc::SYS_sync_file_range as SYNC_FILE_RANGE;
#[cfg(any(target_arch = "powerpc", target_arch = "powerpc64"))]
pub use libc::SYS_sync_file_range2 as SYNC_FILE_RANGE;

/// The call of fstatfs(3): with numbers of 64 bits it is another one on some processors.
#[cfg(any(
    target_pointer_width = "32",
    target_arch = "powerpc64",
    target_arch = "s390x"
))]
pub const FSTATFS: libc::c_long = libc::SYS_fstatfs64;
#[cfg(not(any(
    target_pointer_width = "32",
    target_arch = "powerpc64",
    target_arch = "s390x"
)))]
pub const FSTATFS: libc::c_long = libc::SYS_fstatfs;

/// The call of poll(3): newer processors have ppoll(2) only.
#[cfg(not(any(
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64"
)))]
pub use libc::SYS_poll as POLL;
#[cfg(any(
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "loongarch64"
))]
pub use libc::SYS_ppoll as POLL;

/// Refuses one system call, always.
pub fn refuse(call: libc::c_long, errno: i32) {
    refuse_if(Refusal {
        call,
        errno,
        argument: None,
    });
}

/// Refuses a system call with a given argument.
pub fn refuse_if(refusal: Refusal) {
    let action = libc::SECCOMP_RET_ERRNO | refusal.errno as u32;
    install(refusal.call, refusal.argument, action, 0);
}

/// Lets no system call of that kind return, if the argument of that number, masked, has this value, as long as the
/// descriptor is open.
pub fn hold(call: libc::c_long, argument: (u32, u32, u32)) -> OwnedFd {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let listener = install(call, Some(argument), libc::SECCOMP_RET_USER_NOTIF, flags);
    // SAFETY: the descriptor that the kernel just gave.
    unsafe { OwnedFd::from_raw_fd(listener as RawFd) }
}

/// What becomes of a system call that was intercepted.
#[derive(Clone, Copy, Debug)]
pub enum Verdict {
    /// It is made.
    Continue,
    /// It fails with this errno, and is not made.
    Fail(i32),
    /// It never returns.
    Hold,
}

/// Asks `decide`, on a thread of its own, what becomes of each system call of that kind, whose argument of that number,
/// masked, has this value. It is given the id of the calling thread, and may not make such a call itself.
pub fn intercept(
    call: libc::c_long,
    argument: (u32, u32, u32),
    decide: impl FnMut(u32) -> Verdict + Send + 'static,
) {
    // `struct seccomp_notif` and `struct seccomp_notif_resp`, linux/seccomp.h.
    #[repr(C)]
    #[derive(Default)]
    struct Notification {
        id: u64,
        thread: u32,
        flags: u32,
        data: [u64; 8],
    }
    #[repr(C)]
    struct Response {
        id: u64,
        value: i64,
        error: i32,
        flags: u32,
    }
    const RECEIVE: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
    const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
    const CONTINUE: u32 = 1;
    let listener = hold(call, argument);
    let mut decide = decide;
    std::thread::spawn(move || {
        loop {
            let mut asked = Notification::default();
            // SAFETY: this ioctl(2) writes one notification, which has to be zeroed.
            if unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &mut asked) } != 0 {
                continue;
            }
            let (error, flags) = match decide(asked.thread) {
                Verdict::Continue => (0, CONTINUE),
                Verdict::Fail(errno) => (-errno, 0),
                Verdict::Hold => continue,
            };
            let response = Response {
                id: asked.id,
                value: 0,
                error,
                flags,
            };
            // SAFETY: this ioctl(2) reads one response. It fails if the thread has ended.
            unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &response) };
        }
    });
}

fn install(
    call: libc::c_long,
    argument: Option<(u32, u32, u32)>,
    action: u32,
    flags: libc::c_ulong,
) -> libc::c_long {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    // struct seccomp_data: nr at 0, arguments of 8 bytes from 16 on. The low half of one is in the byte order of the machine.
    let low_half = if cfg!(target_endian = "big") { 4 } else { 0 };
    let (argument, mask, value) = argument.unwrap_or((0, 0, 0));
    let mut program = [
        line(LOAD, 0, 0, 0),
        line(EQUAL, call as u32, 0, 4),
        line(LOAD, 16 + 8 * argument + low_half, 0, 0),
        line(AND, mask, 0, 0),
        line(EQUAL, value, 0, 1),
        line(RETURN, action, 0, 0),
        line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: plain numbers.
    let first = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(first, 0, "{}", io::Error::last_os_error());
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: a program of the given length; the kernel copies it.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &filter) };
    assert!(done >= 0, "{}", io::Error::last_os_error());
    done
}
