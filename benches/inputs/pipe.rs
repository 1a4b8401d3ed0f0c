//! Pipes to read: the writer is this program again, in a process of its own.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio, exit};

use crate::noise::noise;

const JOB: &str = "STILLMAP_BENCH_WRITES";

/// A pipe of the default size with a writer that has begun: the start of the process is over.
#[derive(Debug)]
pub struct Pipe {
    pub reader: OwnedFd,
    writer: Child,
}

impl Pipe {
    /// The writer writes `total` bytes, `block` bytes at a time.
    pub fn open(total: u64, block: usize) -> io::Result<Self> {
        let mut writer = Command::new(std::env::current_exe()?)
            .env(JOB, format!("{total} {block}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let reader = OwnedFd::from(writer.stdout.take().expect("stdout is piped"));
        let mut ready = libc::pollfd {
            fd: reader.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd, alive for the call.
        while unsafe { libc::poll(&mut ready, 1, -1) } < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(Self { reader, writer })
    }

    /// Closes the pipe and waits for the writer; a writer that did not get everything out is an error.
    pub fn close(self) -> io::Result<()> {
        let Self { reader, mut writer } = self;
        drop(reader);
        let status = writer.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("writer: {status}")))
        }
    }
}

/// The writer's side, called first in `main`: returns at once in a process that is no writer.
pub fn write_if_asked() {
    let Ok(job) = std::env::var(JOB) else { return };
    let (total, block) = job.split_once(' ').expect("two numbers");
    let written = write(
        total.parse().expect("a number"),
        block.parse().expect("a number"),
    );
    exit(i32::from(written.is_err()))
}

fn write(mut left: u64, block: usize) -> io::Result<()> {
    let block = noise().into_iter().cycle().take(block).collect::<Vec<u8>>();
    // Not `Stdout`, which would cut the blocks up.
    let mut out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    while left > 0 {
        let n = left.min(block.len() as u64);
        out.write_all(&block[..n as usize])?;
        left -= n;
    }
    Ok(())
}

/// Sets the capacity of the pipe.
pub fn widen(pipe: &impl AsFd, bytes: i32) -> io::Result<()> {
    // SAFETY: no pointer is involved.
    match unsafe { libc::fcntl(pipe.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, bytes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
