//! Reads a large range of a file into memory, using a second thread if one can be started.
//!
//! One processor does not keep up with the memory: it zeroes huge pages for half of the time and copies for the other half.

use crate::sync::{Lock, Rank};
use crate::sys::file;
use crate::worker;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes that a thread takes at a time: two huge pages. Chunks rather than halves, so that a thread that gets less
/// processor time takes fewer of them.
const CHUNK: usize = 4 << 20;

/// Minimum size for using a second thread, in bytes: starting one takes as long as reading 1 MiB.
const PARALLEL_MIN: usize = 8 * CHUNK;

/// Called with the number of bytes done; an error stops the read.
pub(crate) type Progress<'p> = dyn FnMut(usize) -> io::Result<()> + 'p;

/// Reads a file from `offset` on. Returns how many bytes were read without a gap: all of `into`, unless the file ends
/// before.
pub(super) fn read_parallel(
    into: &mut [MaybeUninit<u8>],
    fd: BorrowedFd<'_>,
    offset: u64,
    progress: &mut Progress<'_>,
) -> io::Result<usize> {
    let len = into.len();
    let chunks = Chunks::new(into, fd, offset);
    if len < PARALLEL_MIN || std::thread::available_parallelism().is_ok_and(|n| n.get() == 1) {
        chunks.read_all(progress)?;
        return Ok(chunks.end.into_inner());
    }
    let mut reported = 0;
    let worker = || chunks.read_all(&mut |_| Ok(()));
    let caller = |_| {
        chunks.read_all(&mut |done| {
            reported = done;
            progress(done)
        })
    };
    let (first, second) = worker::run_alongside(c"stillmap-copy", worker, caller);
    first?;
    // A thread that panicked did not read its chunk.
    let panicked = || Err(io::Error::other("a thread that copies panicked"));
    second.map_or(Ok(()), |second| second.unwrap_or_else(|_| panicked()))?;
    let done = chunks.done.into_inner();
    // The second thread may have been the last.
    if reported < done {
        progress(done)?;
    }
    Ok(chunks.end.into_inner())
}

/// A range of a file that is read, and the memory that it goes to.
struct Chunks<'a> {
    fd: BorrowedFd<'a>,
    offset: u64,
    rest: Lock<Rest<'a>>,
    /// From here on no thread takes another chunk.
    is_stopped: AtomicBool,
    /// Bytes read.
    done: AtomicUsize,
    /// Where the file ended, counted from `offset`.
    end: AtomicUsize,
}

/// What no thread has taken.
struct Rest<'a> {
    start: usize,
    memory: &'a mut [MaybeUninit<u8>],
}

impl<'a> Chunks<'a> {
    fn new(memory: &'a mut [MaybeUninit<u8>], fd: BorrowedFd<'a>, offset: u64) -> Self {
        let end = AtomicUsize::new(memory.len());
        let rest = Rest { start: 0, memory };
        Chunks {
            fd,
            offset,
            rest: Lock::new(Rank::Copy, rest),
            is_stopped: AtomicBool::new(false),
            done: AtomicUsize::new(0),
            end,
        }
    }

    /// The next chunk, and where it is in the range.
    fn next(&self) -> Option<(usize, &'a mut [MaybeUninit<u8>])> {
        if self.is_stopped.load(Ordering::Relaxed) {
            return None;
        }
        let mut rest = self.rest.lock();
        let memory = mem::take(&mut rest.memory);
        if memory.is_empty() {
            return None;
        }
        // Up to the end of a huge page: otherwise both threads would zero the same huge page.
        let len = CHUNK - memory.as_ptr().addr() % CHUNK;
        let (chunk, after) = memory.split_at_mut(len.min(memory.len()));
        rest.memory = after;
        let start = rest.start;
        rest.start += chunk.len();
        Some((start, chunk))
    }

    /// Takes no lock: a child that `progress` has forked may find it locked forever.
    fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    fn read_all(&self, progress: &mut Progress<'_>) -> io::Result<()> {
        let mut read = || {
            while self.read_next()? {
                progress(self.done.load(Ordering::Relaxed))?;
            }
            Ok(())
        };
        read().inspect_err(|_| self.stop())
    }

    /// False if there was no chunk left.
    fn read_next(&self) -> io::Result<bool> {
        let Some((start, chunk)) = self.next() else {
            return Ok(false);
        };
        let n = file::read_full_at(self.fd, chunk, self.offset + start as u64)?;
        self.done.fetch_add(n, Ordering::Relaxed);
        if n < chunk.len() {
            self.end.fetch_min(start + n, Ordering::Relaxed);
            self.stop();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::process::Command;

    const LEN: usize = PARALLEL_MIN + CHUNK + 4321;

    fn file() -> (File, Vec<u8>) {
        let model: Vec<u8> = (0..LEN).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&model).unwrap();
        (file, model)
    }

    /// Reads into `into`. Returns what [`read_parallel`] returned and reported.
    fn filled(file: &File, offset: u64, into: &mut [u8]) -> (usize, Vec<usize>) {
        // SAFETY: the same memory, and nothing but initialised bytes are written to it.
        #[allow(unsafe_code)]
        let into = unsafe { &mut *(std::ptr::from_mut(into) as *mut [MaybeUninit<u8>]) };
        let mut reported = Vec::new();
        let n = read_parallel(into, file.as_fd(), offset, &mut |done| {
            reported.push(done);
            Ok(())
        });
        (n.unwrap(), reported)
    }

    #[allow(unsafe_code)]
    fn leave_no_room_for_a_stack() {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let most = (pages << 12) + (1 << 20);
        let limit = libc::rlimit64 {
            rlim_cur: most,
            rlim_max: most,
        };
        // SAFETY: setrlimit(2) reads the struct.
        assert_eq!(unsafe { libc::setrlimit64(libc::RLIMIT_AS, &limit) }, 0);
    }

    const ALONE: &str = "STILLMAP_TEST_NO_THREADS";

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no pread of so much")]
    fn a_large_file_is_read_whole() {
        let (file, model) = file();
        let mut bytes = vec![0; LEN - 77];
        if std::env::var_os(ALONE).is_some() {
            leave_no_room_for_a_stack();
            worker::run_alongside(c"none", || (), |is_there| assert!(!is_there));
        }
        let (n, reported) = filled(&file, 77, &mut bytes);
        assert_eq!(n, bytes.len());
        assert!(bytes == model[77..]);
        assert!(
            reported.is_sorted() && reported.last() == Some(&n),
            "{reported:?}"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri starts no processes")]
    fn works_without_a_second_thread() {
        let name = "linux::buffer::parallel::tests::a_large_file_is_read_whole";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name, "--test-threads=1"]);
        let output = command.env(ALONE, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}"
        );
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no pread of so much")]
    fn a_file_that_is_too_short_is_read_to_its_end() {
        let (file, model) = file();
        let mut bytes = vec![0; LEN + 3 * CHUNK];
        assert_eq!(filled(&file, 5, &mut bytes).0, LEN - 5);
        assert!(bytes[..LEN - 5] == model[5..]);
        assert!(bytes[LEN - 5..].iter().all(|&byte| byte == 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no pread of so much")]
    fn an_error_of_progress_stops_it() {
        let (file, _) = file();
        let mut memory = vec![MaybeUninit::uninit(); LEN];
        let mut steps = 0;
        let stopped = read_parallel(&mut memory, file.as_fd(), 0, &mut |_| {
            steps += 1;
            Err(io::ErrorKind::Interrupted.into())
        });
        assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(steps, 1);
    }
}
