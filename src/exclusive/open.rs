//! Opens a file and takes its lease.

use super::Exclusive;
use super::bytes::{Bytes, Unguarded, allocation_error};
use crate::atfork::{self, NoFork};
use crate::edited_files::{Claim, FileId};
use crate::error::{Error, Result};
use crate::lease::write::{WriteLease, WriteLeaseError};
use crate::mapped_file::FileWindow;
use crate::range;
use crate::space;
use crate::sys::dir::{self, InodeStat};
use crate::sys::file::{self, FileType};
use crate::sys::{credentials, descriptor};
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Without a time to wait, a file is tried again until the pause between two attempts is longer than this. A child that
/// another thread has just forked has it open until it executes its program.
const PAUSE_MAX: Duration = Duration::from_millis(16);

/// A longer time to wait has no end, and can be added to no moment.
const WAIT_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// The bytes to open, and how long to retry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Request {
    pub(super) wait: Option<Duration>,
    pub(super) offset: u64,
    pub(super) len: Option<usize>,
    /// The length that the mapping can have without moving, in bytes.
    pub(super) reserved: usize,
}

impl Request {
    /// The window in a file of `size` bytes.
    fn window(&self, size: u64, name: Option<&Path>) -> Result<FileWindow> {
        let len = self.len.map(|len| len as u64);
        let range = range::check_window(self.offset, len, size);
        let range = range.map_err(|e| e.with_path(|| name.map(PathBuf::from)))?;
        let len = usize::try_from(range.end - range.start);
        Ok(FileWindow {
            offset: range.start,
            len: len.map_err(|_| Error::too_large_to_address(name))?,
            reserved: self.reserved,
        })
    }
}

/// A file to be opened.
struct Attempt<'a> {
    path: &'a CStr,
    /// For error messages.
    name: Option<&'a Path>,
    request: Request,
}

/// Opens a path.
pub(super) fn path(path: &Path, request: Request) -> Result<Exclusive> {
    let error = |e| Error::os("open", Some(path), e);
    let text = dir::c_string(path.as_os_str()).map_err(error)?;
    Attempt {
        path: &text,
        name: Some(path),
        request,
    }
    .run()
}

/// Opens the file that a descriptor has open. Duplicates of the descriptor share its description, so it is opened again
/// and closed: the lease is granted only if no duplicate is left.
pub(super) fn file(file: File, request: Request) -> Result<Exclusive> {
    let name = file::name(file.as_fd());
    let name = name.as_deref();
    check_read_write(file.as_fd(), name)?;
    let path = dir::proc_path(file.as_fd());
    let flags = libc::O_PATH;
    let Ok(again) = dir::open_at(dir::working_directory(), &path, flags, 0) else {
        return Err(Error::unsupported(
            name,
            "opening a descriptor again, without /proc,",
        ));
    };
    drop(file);
    let path = dir::proc_path(again.as_fd());
    Attempt {
        path: &path,
        name,
        request,
    }
    .run()
}

/// Maps an open file without a lease, as the caller asked in `unsafe`.
pub(super) fn unguarded(fd: BorrowedFd<'_>, request: Request) -> Result<Exclusive> {
    let name = file::name(fd);
    let error = |operation| {
        let name = name.as_deref();
        move |e| Error::os(operation, name, e)
    };
    let stat = file::stat(fd).map_err(error("fstat"))?;
    check_kind(stat.kind, name.as_deref())?;
    check_read_write(fd, name.as_deref())?;
    let window = request.window(stat.size, name.as_deref())?;
    let file = fd.try_clone_to_owned().map_err(error("dup"))?;
    let mapped = Unguarded::map(File::from(file), window);
    let mapped = mapped.map_err(|e| e.with_path(|| name.clone()))?;
    let bytes = Bytes::Unguarded(mapped);
    Ok(Exclusive::new(bytes, window, None, name))
}

impl Attempt<'_> {
    fn error(&self, operation: &'static str) -> impl Fn(io::Error) -> Error {
        move |e| Error::os(operation, self.name, e)
    }

    /// Tries until the file is free, or until the time is over.
    fn run(&self) -> Result<Exclusive> {
        atfork::install()?;
        let wait = |wait: Duration| Instant::now() + wait.min(WAIT_MAX);
        let until = self.request.wait.map(wait);
        let mut pause = Duration::from_millis(1);
        loop {
            let (is_ours, tried) = self.try_once()?;
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let is_over = match left {
                Some(left) => left.is_zero(),
                None => is_ours || pause > PAUSE_MAX,
            };
            match tried {
                Some(file) => return Ok(file),
                None if is_over => return Err(self.busy(is_ours)),
                // With the file closed, for a randomised time, so that two openers do not stay in step.
                None => thread::sleep(jitter(pause).min(left.unwrap_or(Duration::MAX))),
            }
            pause = (pause * 2).min(PAUSE_MAX * 2);
        }
    }

    fn busy(&self, is_edited_here: bool) -> Error {
        if is_edited_here {
            return Error::is_edited_here(self.name);
        }
        let why = if self.is_open_here() {
            "another descriptor of this process has it open; that has to be closed first"
        } else if self.request.wait.is_some() {
            "it is open or mapped elsewhere, and was so for as long as ExclusiveOptions::wait allows"
        } else {
            "it is open or mapped elsewhere; ExclusiveOptions::wait waits for it"
        };
        Error::busy(self.name, why)
    }

    /// True if a descriptor of this process has the file open, and not only as `O_PATH`.
    fn is_open_here(&self) -> bool {
        let found = dir::open_at(dir::working_directory(), self.path, libc::O_PATH, 0);
        let id = found.and_then(|found| dir::stat(found.as_fd()));
        let (Ok(InodeStat { id, .. }), Ok(descriptors)) = (id, fs::read_dir("/proc/self/fd"))
        else {
            return false;
        };
        descriptors.flatten().any(|link| {
            let file = fs::metadata(link.path());
            // The mode of the link is that of the descriptor: proc(5).
            let may_access = link.metadata().is_ok_and(|link| link.mode() & 0o600 != 0);
            may_access && file.is_ok_and(|file| (file.dev(), file.ino()) == id)
        })
    }

    /// One attempt: whether this process edits the file, and the value, or `None` if the file is busy.
    fn try_once(&self) -> Result<(bool, Option<Exclusive>)> {
        let base = dir::working_directory();
        // `O_PATH` breaks no lease, not even one of this process.
        let found = dir::open_at(base, self.path, libc::O_PATH, 0).map_err(self.error("open"))?;
        let found = Arc::new(File::from(found));
        let stat = file::stat(found.as_fd()).map_err(self.error("fstat"))?;
        check_kind(stat.kind, self.name)?;
        let id = self.id(found.as_fd())?;
        let Some(claim) = Claim::new(id, &found) else {
            return Ok((true, None));
        };
        let wait = if self.request.wait.is_some() {
            libc::O_NONBLOCK
        } else {
            0
        };
        let flags = libc::O_RDWR | libc::O_NOCTTY | wait;
        let Some(no_fork) = NoFork::begin() else {
            return Ok((false, None));
        };
        let file = match dir::open_at(base, self.path, flags, 0) {
            // A lease is being broken.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok((false, None)),
            other => File::from(other.map_err(|e| Error::open_read_write(self.name, e))?),
        };
        if self.id(file.as_fd())? != id {
            return Ok((false, None));
        }
        match WriteLease::acquire(file, no_fork.since()) {
            Err(WriteLeaseError::Busy) => Ok((false, None)),
            Err(why) => Err(lease_error(why, self.name)),
            Ok(lease) => self.map(lease, claim).map(|file| (false, file)),
        }
    }

    fn id(&self, fd: BorrowedFd<'_>) -> Result<FileId> {
        let stat = dir::stat(fd).map_err(self.error("fstat"))?;
        Ok(stat.id)
    }

    fn map(&self, lease: WriteLease, claim: Claim) -> Result<Option<Exclusive>> {
        // From here on no other process can change the file.
        let stat = file::stat(lease.file().as_fd()).map_err(self.error("fstat"))?;
        let window = self.request.window(stat.size, self.name)?;
        let range = window.offset..window.offset + window.len as u64;
        // Before holes are filled, which would stay filled if there were no room for the mapping.
        let mapped = lease.map(window);
        let mapped = mapped.map_err(|e| e.with_path(|| self.name.map(PathBuf::from)))?;
        let check = || check_held(&lease);
        let filled = match space::unshare_and_allocate(lease.file(), range, stat.size, &check) {
            Err(_) if !lease.is_held() => return Ok(None),
            filled => filled.map_err(|e| allocation_error(e, self.name))?,
        };
        let undo = |lease: &WriteLease| filled.free(lease.file(), &|| check_held(lease));
        let mapping = match lease.publish(mapped, undo) {
            Err(WriteLeaseError::Busy) => return Ok(None),
            other => other.map_err(|e| lease_error(e, self.name))?,
        };
        if let Some(file) = mapping.file() {
            claim.hold(&file);
        }
        let path = self.name.map(PathBuf::from);
        let bytes = Bytes::Leased(mapping);
        Ok(Some(Exclusive::new(bytes, window, Some(claim), path)))
    }
}

/// If another process waits, the lease must be given up, whatever is done here.
fn check_held(lease: &WriteLease) -> io::Result<()> {
    if lease.is_held() {
        Ok(())
    } else {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Half of `time` to one and a half of it.
fn jitter(time: Duration) -> Duration {
    let random = credentials::random().unwrap_or(0) % 16;
    time / 2 + time * random as u32 / 16
}

fn check_read_write(fd: BorrowedFd<'_>, path: Option<&Path>) -> Result<()> {
    let writable = descriptor::is_read_write(fd);
    if writable.map_err(|e| Error::os("fcntl", path, e))? {
        return Ok(());
    }
    Err(Error::os(
        "open",
        path,
        io::Error::from_raw_os_error(libc::EBADF),
    ))
}

fn check_kind(kind: FileType, path: Option<&Path>) -> Result<()> {
    match kind {
        FileType::Regular => Ok(()),
        FileType::Directory => Err(Error::is_directory(path)),
        FileType::Block | FileType::Fifo | FileType::Other => Err(Error::not_a_regular_file(path)),
    }
}

fn lease_error(why: WriteLeaseError, path: Option<&Path>) -> Error {
    match why {
        WriteLeaseError::Busy => Error::busy(path, "it is open or mapped elsewhere"),
        WriteLeaseError::Unsupported(why) => Error::unprotectable(path, why),
        WriteLeaseError::Failed(error) => error.with_path(|| path.map(PathBuf::from)),
    }
}
