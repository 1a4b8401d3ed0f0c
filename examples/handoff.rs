//! Sends memory to another process: written to a memfd, sealed, sent over a Unix socket, opened as a snapshot.
#![allow(clippy::disallowed_methods)]

use std::error::Error;
use std::io::{self, Read, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::AtomicU8;

use clap::Parser;
use stillmap::{Shared, Snapshot};

/// Send standard input to another process as sealed memory, which neither can ever change again.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Run as the other process: standard input is the socket
    #[arg(long, hide = true)]
    receive: bool,
}

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let done = if Args::parse().receive {
        receive()
    } else {
        give()
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}"));
            _ = writeln!(
                io::stderr(),
                "handoff: {error}{}",
                cause.unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}

fn give() -> Outcome {
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    if text.is_empty() {
        return Err("standard input is empty: there is nothing to hand over".into());
    }
    let memory = Shared::<[AtomicU8]>::memfd_slice("handoff", text.len())?;
    memory.write_at(0, &text)?;
    let Some(fd) = memory.fd().map(|fd| fd.try_clone_to_owned()) else {
        return Err("no memfd".into());
    };
    let (fd, sealed) = (fd?, memory.seal()?);
    let (len, backing) = (sealed.len(), sealed.backing());
    writeln!(io::stdout(), "giver:    {len} bytes, {backing:?}")?;

    let (ours, theirs) = UnixStream::pair()?;
    let mut receiver = Command::new(std::env::current_exe()?)
        .arg("--receive")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    send(&ours, fd.as_fd())?;
    match receiver.wait()? {
        status if status.success() => Ok(()),
        status => Err(format!("the receiver ended with {status}").into()),
    }
}

fn receive() -> Outcome {
    let fd = take(io::stdin().as_fd())?;
    // The sender is not trusted: the kernel reports the seals, and without them this is an error.
    let bytes = Snapshot::options().require_mapping(true).from_fd(&fd)?;
    let sum: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    writeln!(
        io::stdout(),
        "receiver: {} bytes, {:?}, sum {sum}",
        bytes.len(),
        bytes.backing()
    )?;
    let refused = Shared::<[AtomicU8]>::from_fd_slice(fd).err();
    writeln!(
        io::stdout(),
        "receiver: and to write: {}",
        refused.map_or("possible".into(), |e| e.to_string())
    )?;
    Ok(())
}

/// Space for one descriptor, aligned as `struct cmsghdr` requires.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Sends one descriptor (`SCM_RIGHTS`, unix(7)) with one byte.
fn send(socket: &UnixStream, fd: BorrowedFd<'_>) -> io::Result<()> {
    let (mut byte, mut control) = ([0_u8], Control([0; 64]));
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: zero is a valid `struct msghdr`, and the message in it lives as long as the call; the control buffer has
    // room for the one header and descriptor that are written to it.
    let sent = unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = libc::CMSG_SPACE(4) as _;
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(4) as _;
        libc::CMSG_DATA(header)
            .cast::<i32>()
            .write_unaligned(fd.as_raw_fd());
        libc::sendmsg(socket.as_raw_fd(), &message, 0)
    };
    match sent {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Takes the descriptor that [`send`] sent.
fn take(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (mut byte, mut control) = ([0_u8], Control([0; 64]));
    let mut part = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: as in `send`; a header of this type and length holds one descriptor, which is new and ours.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = mem::size_of::<Control>() as _;
        if libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_CMSG_CLOEXEC) < 0 {
            return Err(io::Error::last_os_error());
        }
        let header = libc::CMSG_FIRSTHDR(&message);
        let whole = libc::CMSG_LEN(4) as usize;
        if header.is_null()
            || (*header).cmsg_type != libc::SCM_RIGHTS
            || (*header).cmsg_len as usize != whole
        {
            return Err(io::Error::other("no descriptor received"));
        }
        let fd = libc::CMSG_DATA(header).cast::<i32>().read_unaligned();
        Ok(OwnedFd::from_raw_fd(fd))
    }
}
