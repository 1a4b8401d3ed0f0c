//! System calls, by platform.
//!
//! Contract of every function below this module:
//! - `io::Result` in and out (or a plain value): no type of another module, no policy, no message.
//! - Interrupted system calls (`EINTR`) are tried again here and nowhere else.
//! - A function is `unsafe` exactly if it can change memory that other code may hold a reference to.
#![allow(unsafe_code, clippy::disallowed_methods)]

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
