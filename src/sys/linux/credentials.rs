//! Credentials of this process and random numbers: geteuid, capget, umask, getrandom.

use super::{is_call_unknown, retry_eintr};
use std::fs;
use std::fs::File;
use std::io::{self, Read};

/// The effective user: geteuid(2).
pub(crate) fn effective_user() -> u32 {
    // SAFETY: geteuid(2) touches no memory.
    unsafe { libc::geteuid() }
}

/// True if the effective user and group are the real ones: not in a set-user-ID program.
pub(crate) fn are_real() -> bool {
    // SAFETY: getuid(2) touches no memory.
    let user = unsafe { libc::getuid() };
    // SAFETY: getgid(2) touches no memory.
    let group = unsafe { libc::getgid() };
    // SAFETY: getegid(2) touches no memory.
    user == effective_user() && group == unsafe { libc::getegid() }
}

/// capabilities(7): linux/capability.h.
pub(crate) const CAP_FOWNER: u32 = 3;

/// True if a capability below 32 is in the effective set of this thread: capget(2).
pub(crate) fn has_capability(capability: u32) -> bool {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [VERSION_3, 0];
    let mut data = [[0_u32; 3]; 2];
    let (header, data_start) = (header.as_mut_ptr(), data.as_mut_ptr());
    // SAFETY: capget(2) of this version reads and writes a header of two words and writes two structs of three words.
    let done = retry_eintr(|| unsafe { libc::syscall(libc::SYS_capget, header, data_start) });
    done.is_ok() && data[0][0] >> capability & 1 == 1
}

/// The file mode creation mask: umask(2).
pub(crate) fn umask() -> u32 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    if let Some(Ok(mask)) = line.map(|mask| u32::from_str_radix(mask.trim(), 8)) {
        return mask;
    }
    // Without /proc it can only be read by changing it. For a moment, files that other threads make are private.
    // SAFETY: umask(2) touches no memory.
    let mask = unsafe { libc::umask(0o077) };
    // SAFETY: as above.
    unsafe { libc::umask(mask) };
    #[allow(clippy::useless_conversion)] // the type differs between C libraries
    u32::from(mask)
}

/// A number that no other process can guess: getrandom(2), random(4).
pub(crate) fn random() -> io::Result<u64> {
    let mut number = [0_u8; 8];
    let start = number.as_mut_ptr();
    // SAFETY: getrandom(2) writes at most eight bytes to `number`. Up to 256 bytes are never returned in part.
    let done =
        retry_eintr(|| unsafe { libc::syscall(libc::SYS_getrandom, start, number.len(), 0) });
    match done {
        Err(e) if is_call_unknown(&e) => File::open("/dev/urandom")?.read_exact(&mut number)?,
        done => drop(done?),
    }
    Ok(u64::from_ne_bytes(number))
}
