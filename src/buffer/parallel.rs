//! Reads a large range of a file into memory: two threads take turns, if a second one can be had.
//!
//! One processor does not keep up with the memory: half of its time it zeroes huge pages, the other half it copies.

use crate::sys::{file, thread};
use std::io;
use std::iter;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a thread takes at a time, in bytes: a few huge pages. Chunks rather than halves, so that a thread that gets less
/// of its processor just takes fewer of them.
const CHUNK: usize = 4 << 20;

/// So many bytes are worth a second thread.
const LARGE: usize = 8 * CHUNK;

/// Told how many bytes are done, again and again, and may stop it.
pub(crate) type Step<'s> = dyn FnMut(usize) -> io::Result<()> + 's;

/// Reads a file from `offset` on, and gives how much there was without a gap: all of `into`, unless the file ends before.
pub(crate) fn fill(
    into: &mut [MaybeUninit<u8>],
    fd: BorrowedFd<'_>,
    offset: u64,
    step: &mut Step<'_>,
) -> io::Result<usize> {
    let len = into.len();
    // No huge page belongs to two chunks: two threads would both zero it, one of them in vain.
    let (first, rest) = into.split_at_mut(len.min(CHUNK - into.as_ptr().addr() % CHUNK));
    let chunks = iter::once(first).chain(rest.chunks_mut(CHUNK));
    let placed = chunks.scan(0, |end, chunk| {
        let start = *end;
        *end += chunk.len();
        Some((start, chunk))
    });
    let chunks = Mutex::new(placed);
    let no_more = || lock(&chunks).by_ref().for_each(drop);
    let done = AtomicUsize::new(0);
    let end = AtomicUsize::new(len);
    let read_next = || -> io::Result<bool> {
        let Some((start, chunk)) = lock(&chunks).next() else {
            return Ok(false);
        };
        let n = read_full(fd, chunk, offset + start as u64)?;
        done.fetch_add(n, Ordering::Relaxed);
        if n < chunk.len() {
            end.fetch_min(start + n, Ordering::Relaxed);
            no_more();
        }
        Ok(true)
    };
    let read_all = |step: &mut Step<'_>| {
        let mut read = || {
            while read_next()? {
                step(done.load(Ordering::Relaxed))?;
            }
            Ok(())
        };
        read().inspect_err(|_| no_more())
    };
    let is_alone = || {
        len < LARGE || std::thread::available_parallelism().is_ok_and(|number| number.get() == 1)
    };
    if is_alone() {
        read_all(step)?;
        return Ok(end.into_inner());
    }
    let mut told = 0;
    let there = || read_all(&mut |_| Ok(()));
    let here = |_| {
        read_all(&mut |done| {
            told = done;
            step(done)
        })
    };
    let (first, second) = thread::beside(c"stillmap-copy", there, here);
    first.and(second.map_or(Ok(()), |second| second.unwrap_or_else(|_| lost())))?;
    let done = done.into_inner();
    // The second thread may have been the last.
    if told < done {
        step(done)?;
    }
    Ok(end.into_inner())
}

/// Reads until `into` is full or the file ends: how many bytes.
fn read_full(fd: BorrowedFd<'_>, into: &mut [MaybeUninit<u8>], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        let n = file::read_at(fd, &mut into[done..], offset + done as u64)?.len();
        if n == 0 {
            break;
        }
        done += n;
    }
    Ok(done)
}

/// A thread that panicked has left its chunk as it was.
fn lost() -> io::Result<()> {
    Err(io::Error::other("a thread that copies panicked"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::process::Command;

    const LEN: usize = LARGE + CHUNK + 4321;

    fn file() -> (File, Vec<u8>) {
        let model: Vec<u8> = (0..LEN).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&model).unwrap();
        (file, model)
    }

    /// Fills `into` and gives what [`fill`] gave, and what it told.
    fn filled(file: &File, offset: u64, into: &mut [u8]) -> (usize, Vec<usize>) {
        // SAFETY: the same memory, and nothing but initialised bytes are written to it.
        #[allow(unsafe_code)]
        let into = unsafe { &mut *(std::ptr::from_mut(into) as *mut [MaybeUninit<u8>]) };
        let mut told = Vec::new();
        let n = fill(into, file.as_fd(), offset, &mut |done| {
            told.push(done);
            Ok(())
        });
        (n.unwrap(), told)
    }

    #[allow(unsafe_code)]
    fn leave_no_room_for_a_stack() {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let most = (pages << 12) + (1 << 20);
        let limit = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        // SAFETY: setrlimit(2) reads the struct.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
    }

    const ALONE: &str = "STILLMAP_TEST_NO_THREADS";

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no pread of so much")]
    fn a_large_file_is_read_whole() {
        let (file, model) = file();
        let mut bytes = vec![0; LEN - 77];
        if std::env::var_os(ALONE).is_some() {
            leave_no_room_for_a_stack();
            assert!(thread::start(c"none", || ()).is_err());
        }
        let (n, told) = filled(&file, 77, &mut bytes);
        assert_eq!(n, bytes.len());
        assert!(bytes == model[77..]);
        assert!(told.is_sorted() && told.last() == Some(&n), "{told:?}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri starts no processes")]
    fn no_thread_has_to_be_had() {
        let name = "buffer::parallel::tests::a_large_file_is_read_whole";
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
    fn a_file_that_is_too_short_gives_what_it_has() {
        let (file, model) = file();
        let mut bytes = vec![0; LEN + 3 * CHUNK];
        assert_eq!(filled(&file, 5, &mut bytes).0, LEN - 5);
        assert!(bytes[..LEN - 5] == model[5..]);
        assert!(bytes[LEN - 5..].iter().all(|&byte| byte == 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri has no pread of so much")]
    fn a_step_stops_it() {
        let (file, _) = file();
        let mut memory = vec![MaybeUninit::uninit(); LEN];
        let mut steps = 0;
        let stopped = fill(&mut memory, file.as_fd(), 0, &mut |_| {
            steps += 1;
            Err(io::ErrorKind::Interrupted.into())
        });
        assert_eq!(stopped.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(steps, 1);
    }
}
