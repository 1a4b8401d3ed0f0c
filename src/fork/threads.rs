//! The other threads of the process.

use crate::error::{Error, Result};
use crate::lease::threads;
use crate::sys::{process, thread};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// Maximum time to wait for threads that are ending. pthread_join(3) and `std::thread::scope` return before a thread is
/// gone: 20 to 80 µs before on an idle machine, and at most 33 ms where other programs kept all processors busy.
const ENDING_MAX: Duration = Duration::from_millis(200);

/// Time between two checks.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// The fewest checks before giving up, each of which lets another thread run. On an idle machine there are some 1,000 in
/// `ENDING_MAX`; a virtual machine with one processor, on a machine that is busy, made too few.
const LOOKS_MIN: u32 = 100;

/// Fails if there are threads besides this one and those of the leases, unless they end soon. If it succeeds, there was a
/// moment without any, so there are none as long as these start none.
pub(super) fn ensure_single_threaded() -> Result<()> {
    let own = threads::ids();
    let started = Instant::now();
    let mut looks = 0;
    loop {
        let others = match other_threads(&own) {
            Err(_) if process::has_one_thread() => Ok(0),
            others => others,
        };
        let others = others.map_err(|e| {
            let tasks = Path::new("/proc/self/task");
            Error::os("open", Some(tasks), e)
        })?;
        if others == 0 {
            return Ok(());
        }
        looks += 1;
        if looks >= LOOKS_MIN && started.elapsed() > ENDING_MAX {
            return Err(Error::multi_threaded(others));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The number of threads, including those that are ending.
fn other_threads(own: &[i32]) -> io::Result<usize> {
    let (mut running, mut exited) = (0, 0);
    for id in process::threads()? {
        if id == thread::id() || own.contains(&id) {
            continue;
        }
        if !process::is_exiting(id)? {
            running += 1;
        } else if id.unsigned_abs() == std::process::id() {
            // The first thread has ended and stays in the list as long as there are others.
            exited = 1;
        }
    }
    // The kernel's walk through the list ends early where a thread goes meanwhile, so one that was started may be
    // missing. Its count is exact, and includes threads that are about to go.
    let known = 1 + own.len() + exited;
    let others = process::thread_count()?.saturating_sub(known);
    Ok(running.max(others))
}
