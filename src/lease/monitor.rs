//! The keeper: the one thread that answers for every lease of the process.
//!
//! The kernel tells a break by a signal to this thread alone. It has every signal blocked and waits for that one, so the
//! program's handlers and masks are not touched. A signal says only "look": which leases are broken is asked of the
//! kernel, one by one, so nothing is lost when many break at once. And since a signal may get lost (a security module
//! can forbid it, and a process that changes its user gets none), the keeper also looks a few times in each
//! lease-break-time as long as there are leases.
//!
//! Rules, because a writer that is held may be a thread of this very process:
//! - No lock of this room is held while a file is opened for writing, and none is ever waited for by such an open.
//! - The lock of the list is held for a moment only. An answer, which may take seconds, is given without it, and by
//!   another thread, so that whatever it waits for the keeper sees the deadlines. Such threads end when nothing is
//!   broken any more.
//!
//! A forked process has the list in its memory, but neither the thread nor a right to the leases. It finds no keeper
//! (`MADV_WIPEONFORK`), and makes one of its own at its first lease.

use crate::region::Region;
use crate::sys::lease::{self, Lease};
use crate::sys::memory::{self as mapping, Pages};
use crate::sys::process::PerProcess;
use crate::sys::thread::{self, Thread};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How often to look while something is broken and not answered.
const AGAIN: Duration = Duration::from_millis(20);

/// A signal that was there already is given at once; one that was waited for takes longer than this to come.
const WAITED: Duration = Duration::from_micros(200);

/// The most threads that give answers: enough for a few that wait for a disk.
const ANSWERERS: usize = 4;

/// So many mappings are kept for answers: where the process has as many as it may have (vm.max_map_count), no copy could
/// be put anywhere. A thread and its copy take about ten.
const RESERVE: usize = 24;

/// The keeper looks so many times in each lease-break-time, signal or not.
const LOOKS: u32 = 4;

/// Whoever holds a lease, and knows what to do when it breaks.
pub(crate) trait Holder: Send + Sync {
    /// True if somebody waits for the file and was not answered yet.
    fn is_broken(&self) -> bool;

    /// False as long as whoever waits may be left waiting.
    fn is_due(&self, _deadline: &Deadline) -> bool {
        true
    }

    /// Makes the holder independent of the file and gives the lease back.
    fn answer(&self, deadline: &Deadline) -> Answer;

    /// The kernel will take the lease away in a moment, and no answer was possible.
    fn give_up(&self);

    /// Where the holder is in the list.
    fn place(&self) -> &Place;

    /// The addresses, from the first on and so many bytes, where something is mapped that a forked child does not get.
    fn range(&self) -> (usize, usize);
}

/// What came of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The lease is given back.
    Done,
    /// It could not be done now, and the lease is held on to.
    Later,
}

/// Where a holder is in the keeper's list.
#[derive(Debug, Default)]
pub(crate) struct Place(AtomicUsize);

/// When the kernel will take a broken lease away by force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    broken: Instant,
    time: Duration,
}

impl Deadline {
    /// True for the last tenth of the time, while the lease still holds.
    pub(crate) fn is_near(&self) -> bool {
        let margin = (self.time / 10).max(Duration::from_millis(200));
        self.broken.elapsed() + margin >= self.time && !self.is_over()
    }

    /// True once the kernel has taken the lease away.
    pub(crate) fn is_over(&self) -> bool {
        self.broken.elapsed() >= self.time
    }

    /// True once `part` of `of` parts of the time have passed.
    pub(crate) fn has_passed(&self, part: u32, of: u32) -> bool {
        self.broken.elapsed() >= self.time * part / of
    }
}

/// What the keeper answers for.
#[derive(Default)]
struct List {
    holders: Vec<Arc<dyn Holder>>,
    /// There was nothing to look after, so the keeper waits until it is woken.
    keeper_sleeps: bool,
}

/// The thread of this process and what it watches.
pub(crate) struct Keeper {
    thread: OnceLock<i32>,
    starts: Mutex<()>,
    list: Mutex<List>,
    /// Breaks that wait for an answer, and those who give them.
    open: Mutex<Open>,
    answered: Condvar,
}

#[derive(Default)]
struct Open {
    breaks: VecDeque<Arc<Break>>,
    answerers: usize,
    /// Of the answerers, and of those that have ended since one was started.
    threads: Vec<Thread>,
    /// Given up while answers are given.
    reserve: Option<Region>,
}

/// A break that was seen.
struct Break {
    holder: Arc<dyn Holder>,
    deadline: Deadline,
    /// One of the constants below.
    progress: AtomicU8,
}

const OPEN: u8 = 0;
const QUEUED: u8 = 1;
const DONE: u8 = 2;

/// The keeper of this process; there is none yet, also just after a fork.
static KEEPER: PerProcess<Keeper> = PerProcess::new();

impl Keeper {
    /// The keeper of this process, with its thread running; `None` where there can be none.
    pub(crate) fn get() -> Option<&'static Keeper> {
        let keeper = KEEPER.get_or_make(|| Keeper {
            thread: OnceLock::new(),
            starts: Mutex::default(),
            list: Mutex::default(),
            open: Mutex::default(),
            answered: Condvar::new(),
        })?;
        keeper.thread().map(|_| keeper)
    }

    /// True unless this keeper was inherited by a fork.
    pub(crate) fn is_of_this_process(&self) -> bool {
        KEEPER.get().is_some_and(|here| std::ptr::eq(here, self))
    }

    /// The id of the keeper's thread, which is started if it was not; `None` where that is not possible now.
    fn thread(&'static self) -> Option<i32> {
        let _one = match self.thread.get() {
            Some(thread) => return Some(*thread),
            None => lock(&self.starts),
        };
        if self.thread.get().is_none() {
            let thread = self.start().ok()?;
            lock(&self.open).reserve = Region::in_pieces(RESERVE).ok();
            let _ = self.thread.set(thread);
        }
        self.thread.get().copied()
    }

    fn start(&'static self) -> io::Result<i32> {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        start_thread(move || {
            // The receiver waits for this.
            let _ = tell.send(thread::id());
            self.run()
        })?;
        told.recv().map_err(io::Error::other)
    }

    /// Takes a lease whose breaks come to this keeper. Its holder has to be given to [`Keeper::watch`] next.
    pub(crate) fn take(&'static self, fd: BorrowedFd<'_>, lease: Lease) -> io::Result<()> {
        let thread = self.thread();
        let thread = thread.ok_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN))?;
        lease::take(fd, lease, thread)
    }

    /// Answers for a lease from here on. False if it is broken already: then nobody else answers.
    pub(crate) fn watch(&self, holder: Arc<dyn Holder>) -> bool {
        let mut list = lock(&self.list);
        // Under the lock: a break before this line is seen here, one after it by the keeper.
        if holder.is_broken() {
            return false;
        }
        holder
            .place()
            .0
            .store(list.holders.len(), Ordering::Relaxed);
        list.holders.push(holder);
        // It waits for signals alone as long as there are no leases; now it has to look now and then.
        if std::mem::take(&mut list.keeper_sleeps) {
            if let Some(thread) = self.thread.get() {
                lease::wake(*thread);
            }
        }
        true
    }

    /// Answers no longer. An answer may be under way still.
    pub(crate) fn forget(&self, holder: &dyn Holder) {
        let mut list = lock(&self.list);
        let place = holder.place().0.load(Ordering::Relaxed);
        // By address, since a holder that is done may have been taken out already.
        let there = list
            .holders
            .get(place)
            .is_some_and(|found| std::ptr::addr_eq(Arc::as_ptr(found), std::ptr::from_ref(holder)));
        if there {
            list.holders.swap_remove(place);
            if let Some(moved) = list.holders.get(place) {
                moved.place().0.store(place, Ordering::Relaxed);
            }
        }
    }

    /// The keeper's thread.
    fn run(&'static self) {
        let mut seen: Vec<Arc<Break>> = Vec::new();
        let mut time = lease::break_time();
        let mut looked = Instant::now();
        loop {
            let before = Instant::now();
            let told = lease::wait_for_break(self.patience(&seen, time));
            if told {
                time = lease::break_time();
            }
            // A signal that was waited for came now; one that was there already, or a break that no signal told of, at
            // any time since the last look.
            let waited = told && before.elapsed() > WAITED;
            let broken = if waited { Instant::now() } else { looked };
            looked = Instant::now();
            self.collect_broken(&mut seen, Deadline { broken, time });
            seen.retain(|broken| self.pursue(broken));
        }
    }

    /// How long to wait for a signal.
    fn patience(&self, seen: &[Arc<Break>], time: Duration) -> Option<Duration> {
        if !seen.is_empty() {
            return Some(AGAIN);
        }
        let mut list = lock(&self.list);
        list.keeper_sleeps = list.holders.is_empty();
        (!list.keeper_sleeps).then_some(time / LOOKS)
    }

    /// Adds what was broken since the last look.
    fn collect_broken(&self, seen: &mut Vec<Arc<Break>>, deadline: Deadline) {
        // By address: of hundreds, each is looked for among hundreds.
        let address = |holder: &Arc<dyn Holder>| Arc::as_ptr(holder).cast::<()>().addr();
        let known: HashSet<usize> = seen.iter().map(|known| address(&known.holder)).collect();
        for holder in &lock(&self.list).holders {
            if !known.contains(&address(holder)) && holder.is_broken() {
                seen.push(Arc::new(Break {
                    holder: Arc::clone(holder),
                    deadline,
                    progress: AtomicU8::new(OPEN),
                }));
            }
        }
    }

    /// Has the answer given, or sees whether it was. False once all is done.
    fn pursue(&'static self, broken: &Arc<Break>) -> bool {
        match broken.progress.load(Ordering::Acquire) {
            DONE => return false,
            _ if broken.deadline.is_near() => broken.holder.give_up(),
            OPEN if broken.holder.is_due(&broken.deadline) => self.have_answered(broken),
            _ => {}
        }
        true
    }

    /// Leaves it to another thread, or answers here if there is none to be had.
    fn have_answered(&'static self, broken: &Arc<Break>) {
        broken.progress.store(QUEUED, Ordering::Relaxed);
        let mut open = lock(&self.open);
        open.breaks.push_back(Arc::clone(broken));
        if open.answerers == ANSWERERS {
            return;
        }
        open.reserve = None;
        let threads = std::mem::take(&mut open.threads);
        let (ended, running) = threads.into_iter().partition(Thread::is_finished);
        open.threads = running;
        join(ended);
        // Started under the lock: whoever has it knows every thread that there is.
        match start_thread(|| self.give_answers()) {
            Ok(thread) => {
                open.answerers += 1;
                open.threads.push(thread);
            }
            // Nobody ends without having seen what was pushed.
            Err(_) if open.answerers > 0 => {}
            Err(_) => {
                open.answerers = 1;
                drop(open);
                self.give_answers();
            }
        }
    }

    /// Answers as long as something is open.
    fn give_answers(&self) {
        loop {
            let mut open = lock(&self.open);
            let Some(broken) = open.breaks.pop_front() else {
                open.answerers -= 1;
                if open.answerers == 0 {
                    open.reserve = Region::in_pieces(RESERVE).ok();
                }
                self.answered.notify_all();
                return;
            };
            drop(open);
            let answer = broken.holder.answer(&broken.deadline);
            if answer == Answer::Done {
                self.forget(broken.holder.as_ref());
            }
            let progress = match answer {
                Answer::Done => DONE,
                Answer::Later => OPEN,
            };
            broken.progress.store(progress, Ordering::Release);
        }
    }
}

/// Nothing that panics runs under the locks of this room.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts the keeper or one who gives answers.
fn start_thread(run: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
    thread::start(c"stillmap-keeper", run)
}

/// Waits for threads that are about to end.
fn join(threads: Vec<Thread>) {
    threads.into_iter().for_each(Thread::join);
}

/// The keeper held still, so that the process can be forked: no answer is under way, no thread but its own is left, and
/// no lease is listed, dropped or looked at meanwhile.
pub(crate) struct Still(Option<Held>);

struct Held {
    thread: i32,
    list: MutexGuard<'static, List>,
    /// No answer starts.
    _open: MutexGuard<'static, Open>,
}

/// Holds the keeper still, if there is one, and ends every other thread of this crate.
pub(crate) fn hold_still() -> Still {
    Still(KEEPER.get().and_then(|keeper| {
        let open = lock(&keeper.open);
        let none = keeper.answered.wait_while(open, |open| open.answerers > 0);
        let mut open = none.unwrap_or_else(PoisonError::into_inner);
        // They have said that they are done, and need no lock to end.
        join(std::mem::take(&mut open.threads));
        Some(Held {
            thread: *keeper.thread.get()?,
            _open: open,
            list: lock(&keeper.list),
        })
    }))
}

impl Still {
    /// The id of the keeper's thread, if it runs.
    pub(crate) fn thread(&self) -> Option<i32> {
        self.0.as_ref().map(|held| held.thread)
    }

    /// To be called first in the forked child: where its parent's leased mappings are, the child has nothing, and
    /// nothing else must ever come to be there, since references may point to it. Touching it ends the child.
    pub(crate) fn in_child(self) {
        let Some(held) = self.0 else {
            return;
        };
        for holder in &held.list.holders {
            let (start, len) = holder.range();
            // Where something is mapped after all (a copy, made before the fork), it is the right thing.
            if let Ok(plug) = Region::placed(len, mapping::Place::At(start), Pages::None) {
                std::mem::forget(plug);
            }
        }
    }
}
