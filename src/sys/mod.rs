//! System calls, by platform.
//!
//! Contract of every function below this module:
//! - It takes plain values and returns an `io::Result` or a plain value: no type of another module, no policy, no message.
//! - It makes interrupted system calls (`EINTR`) again.
//! - It is `unsafe` exactly if it can change memory that other code may hold a reference to.
//!
//! A function that a platform does not have comes from the next module: `linux` re-exports `unix`, `unix` and `windows`
//! re-export `unsupported`, which has every function that `portable/` calls. So a name has the same signature everywhere.
#![allow(unsafe_code, clippy::disallowed_methods)]

#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
#[cfg_attr(target_os = "linux", allow(dead_code, unused_imports))] // What only `portable/` uses.
mod unix;
#[cfg_attr(any(unix, windows), allow(dead_code, unused_imports))] // What the platform has itself.
mod unsupported;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as platform;
#[cfg(all(unix, not(target_os = "linux")))]
use unix as platform;
#[cfg(not(any(unix, windows)))]
use unsupported as platform;
#[cfg(windows)]
use windows as platform;

pub(crate) use platform::*;
