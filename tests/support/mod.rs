//! What the integration tests share: child processes, pipes, real file systems, and counts read from the kernel.
#![allow(dead_code, unused_imports, unused_macros)] // each test binary uses a part of it
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate
#![allow(clippy::unnecessary_cast, clippy::useless_conversion)] // types of libc have other sizes on other targets

pub mod break_time;
pub mod bytes;
pub mod child;
pub mod control_group;
pub mod disk;
pub mod exclusive;
pub mod half_written;
pub mod kernel;
pub mod leased;
pub mod namespace;
pub mod pipe;
pub mod pool;
pub mod random;
pub mod refuse;
pub mod setting;
pub mod temporary;
pub mod trace;
pub mod user;
pub mod xattr;

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
pub use temporary::{temp_dir, temp_dir_in};

/// Says why a test, or a part of one, did not run. Written to the real stderr, which libtest does not capture.
pub fn skip(why: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Writes `bytes` to a new file `name` in `dir`.
pub fn file_with(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("write a test file");
    path
}

/// A descriptor that only names the file (`O_PATH`). `std` leaves the flag out on musl, where it counts as an access mode.
pub fn by_name(path: &Path) -> OwnedFd {
    let path = CString::new(path.as_os_str().as_bytes()).expect("no zero byte");
    // SAFETY: open(2) reads a C string.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel just returned it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// True if this process may mount, make loop devices and change its user.
pub fn is_root() -> bool {
    // SAFETY: geteuid cannot fail and touches no memory.
    unsafe { libc::geteuid() == 0 }
}

/// The path for a system call.
pub fn c_path(path: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

/// truncate(2): the file need not be opened for it.
pub fn truncate(path: &Path, len: u64) -> std::io::Result<()> {
    // SAFETY: the path is a C string.
    match unsafe { libc::truncate64(c_path(path).as_ptr(), len as i64) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// RLIMIT_FSIZE of this process, in bytes; over it there is an error, and SIGXFSZ.
pub fn limit_file_sizes(bytes: u64) {
    let limit = libc::rlimit64 {
        rlim_cur: bytes,
        rlim_max: bytes,
    };
    // SAFETY: reads one struct.
    let done = unsafe { libc::setrlimit64(libc::RLIMIT_FSIZE, &limit) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

/// `cargo test` builds the examples beside the tests: target/PROFILE/{deps/this, examples/NAME}.
pub fn example(name: &str) -> Command {
    let this = std::env::current_exe().expect("the path of this program");
    let profile = this
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps");
    let program = profile.join("examples").join(name);
    assert!(
        program.exists(),
        "{} is missing: run `cargo test`, or `cargo build --examples` first",
        program.display()
    );
    Command::new(program)
}
