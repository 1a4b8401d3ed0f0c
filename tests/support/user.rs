//! Other users: becoming one, for good, in a process of its own.

use super::{is_root, skip};
use std::fs;

const NOBODY: u32 = 65534;

/// True if this process may become any user, and give files to any user. Prints `skipped:` if not, also for root in a
/// container.
pub fn may_be_others() -> bool {
    // CAP_CHOWN, CAP_SETGID, CAP_SETUID: capabilities(7).
    const WANTED: u64 = 1 | 1 << 6 | 1 << 7;
    let status = fs::read_to_string("/proc/self/status").expect("read /proc/self/status");
    let held = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let known = |map: &str| {
        let map = fs::read_to_string(map).unwrap_or_default();
        map.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>());
            let (first, count) = (numbers.next(), numbers.nth(1));
            matches!((first, count), (Some(Ok(0)), Some(Ok(count))) if count > NOBODY.into())
        })
    };
    let groups = fs::read_to_string("/proc/self/setgroups");
    let may = is_root()
        && held.is_some_and(|held| held & WANTED == WANTED)
        && known("/proc/self/uid_map")
        && known("/proc/self/gid_map")
        && groups.is_ok_and(|groups| groups.trim() == "allow");
    if !may {
        skip("becoming another user takes privileges");
    }
    may
}

/// True if this process has no privileges, or may give them up.
pub fn may_be_nobody() -> bool {
    !is_root() || may_be_others()
}

/// For good: this process continues without privileges, as another user if it is root's.
pub fn become_nobody() {
    if !is_root() {
        return;
    }
    // SAFETY: takes numbers; this process has one thread.
    let done = unsafe {
        [
            libc::setgroups(0, std::ptr::null()),
            libc::setresgid(NOBODY, NOBODY, NOBODY),
            libc::setresuid(NOBODY, NOBODY, NOBODY),
        ]
    };
    assert_eq!(done, [0; 3], "{}", std::io::Error::last_os_error());
}

/// For good: takes all capabilities but these from this process, whose user stays. False, after saying why, if that is
/// refused.
pub fn with_capabilities(bits: u64) -> bool {
    // Version 3: two words of effective, permitted and inheritable capabilities, capget(2).
    let header = [0x2008_0522_u32, 0];
    let (low, high) = (bits as u32, (bits >> 32) as u32);
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: reads a header of 8 bytes and two structs of 12.
    let set = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    if set != 0 {
        skip(format_args!("capset: {}", std::io::Error::last_os_error()));
    }
    set == 0
}

/// Runs `f` in a forked process as another user, with one group and no privileges; true if `f` returned true.
pub fn as_user(user: u32, group: u32, f: impl FnOnce() -> bool) -> bool {
    start_as_user(user, group, f).wait().success()
}

/// The same, without waiting.
pub fn start_as_user(user: u32, group: u32, f: impl FnOnce() -> bool) -> super::child::Forked {
    super::child::fork(|| {
        // SAFETY: takes numbers; this process has one thread.
        let done = unsafe {
            [
                libc::setgroups(0, std::ptr::null()),
                libc::setresgid(group, group, group),
                libc::setresuid(user, user, user),
            ]
        };
        assert_eq!(done, [0; 3], "{}", std::io::Error::last_os_error());
        if !f() {
            // SAFETY: ends this process.
            unsafe { libc::_exit(1) };
        }
    })
}
