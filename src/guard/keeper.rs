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
//! - The lock of the list is held for a moment only. An answer, which may take seconds, is given without it; one that
//!   does take long, on a thread of its own, so that the keeper sees the others' deadlines.
//!
//! A forked process has the list in its memory, but neither the thread nor a right to the leases. It finds no keeper
//! (`MADV_WIPEONFORK`), and makes one of its own at its first lease.

use crate::region::Region;
use crate::sys::lease::{self, Lease};
use crate::sys::memory::{self as mapping, Pages};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How often to look while something is broken and not answered.
const AGAIN: Duration = Duration::from_millis(20);

/// The keeper looks so many times in each lease-break-time, signal or not.
const LOOKS: u32 = 4;

/// Whoever holds a lease, and knows what to do when it breaks.
pub(crate) trait Holder: Send + Sync {
    /// True if somebody waits for the file and was not answered yet.
    fn is_broken(&self) -> bool;

    /// Makes the holder independent of the file and gives the lease back.
    fn answer(&self, deadline: &Deadline) -> Answer;

    /// True if an answer takes no longer than starting a thread for it would matter.
    fn is_quick(&self) -> bool;

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
    thread: OnceLock<io::Result<i32>>,
    list: Mutex<List>,
    /// Answers that are being given on threads of their own.
    answering: Mutex<usize>,
    answered: Condvar,
}

/// A break that was seen.
struct Break {
    holder: Arc<dyn Holder>,
    deadline: Deadline,
    progress: Arc<Mutex<Progress>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Open,
    Answering,
    Done,
}

/// Where the keeper of this process is; null in a process that has none yet, also just after a fork.
static KEEPER: OnceLock<Option<&'static AtomicPtr<Keeper>>> = OnceLock::new();

impl Keeper {
    /// The keeper of this process, with its thread running; `None` where there can be none.
    pub(crate) fn get() -> Option<&'static Keeper> {
        let here = (*KEEPER.get_or_init(lease::process_local))?;
        let mut found = here.load(Ordering::Acquire);
        if found.is_null() {
            let new = Box::into_raw(Box::new(Keeper {
                thread: OnceLock::new(),
                list: Mutex::default(),
                answering: Mutex::new(0),
                answered: Condvar::new(),
            }));
            // Of two threads that come at once one is too late; what it made is a few words, once in a process.
            let order = (Ordering::AcqRel, Ordering::Acquire);
            let was = here.compare_exchange(found, new, order.0, order.1);
            found = was.map_or_else(|other| other, |_| new);
        }
        // SAFETY: a keeper is never freed.
        #[allow(unsafe_code)]
        let keeper: &'static Keeper = unsafe { &*found };
        keeper.thread().map(|_| keeper)
    }

    /// True unless this keeper was inherited by a fork.
    pub(crate) fn is_of_this_process(&self) -> bool {
        let here = KEEPER.get().copied().flatten();
        here.is_some_and(|here| std::ptr::eq(here.load(Ordering::Acquire), self))
    }

    /// The id of the keeper's thread, which is started if it was not.
    fn thread(&'static self) -> Option<i32> {
        let thread = self.thread.get_or_init(|| {
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            start_thread(move || {
                // The receiver waits for this.
                let _ = tell.send(lease::thread_id());
                self.run()
            })?;
            told.recv().map_err(io::Error::other)
        });
        thread.as_ref().ok().copied()
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
            if let Some(Ok(thread)) = self.thread.get() {
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
        let mut open: Vec<Break> = Vec::new();
        let mut time = lease::break_time();
        let mut looked = Instant::now();
        loop {
            let told = lease::wait_for_break(self.patience(&open, time));
            if told {
                time = lease::break_time();
            }
            // A break that no signal told of came at any time since the last look.
            let broken = if told { Instant::now() } else { looked };
            looked = Instant::now();
            self.collect_broken(&mut open, Deadline { broken, time });
            open.retain(|broken| self.pursue(broken));
        }
    }

    /// How long to wait for a signal.
    fn patience(&self, open: &[Break], time: Duration) -> Option<Duration> {
        if !open.is_empty() {
            return Some(AGAIN);
        }
        let mut list = lock(&self.list);
        list.keeper_sleeps = list.holders.is_empty();
        (!list.keeper_sleeps).then_some(time / LOOKS)
    }

    /// Adds what was broken since the last look.
    fn collect_broken(&self, open: &mut Vec<Break>, deadline: Deadline) {
        for holder in &lock(&self.list).holders {
            let known = open.iter().any(|known| Arc::ptr_eq(&known.holder, holder));
            if !known && holder.is_broken() {
                open.push(Break {
                    holder: Arc::clone(holder),
                    deadline,
                    progress: Arc::new(Mutex::new(Progress::Open)),
                });
            }
        }
    }

    /// Gives the answer, has it given, or sees whether it was. False once all is done.
    fn pursue(&'static self, broken: &Break) -> bool {
        let progress = *lock(&broken.progress);
        if progress != Progress::Done && broken.deadline.is_near() {
            broken.holder.give_up();
        }
        if progress == Progress::Open {
            *lock(&broken.progress) = Progress::Answering;
            if broken.holder.is_quick() || !self.answer_aside(broken) {
                self.answer(&broken.holder, &broken.deadline, &broken.progress);
            }
        }
        *lock(&broken.progress) != Progress::Done
    }

    /// Gives the answer on a thread of its own. False if no thread is to be had.
    fn answer_aside(&'static self, broken: &Break) -> bool {
        let holder = Arc::clone(&broken.holder);
        let progress = Arc::clone(&broken.progress);
        let deadline = broken.deadline;
        *lock(&self.answering) += 1;
        let started = start_thread(move || {
            self.answer(&holder, &deadline, &progress);
            self.end_aside();
        });
        if started.is_err() {
            self.end_aside();
        }
        started.is_ok()
    }

    fn end_aside(&self) {
        *lock(&self.answering) -= 1;
        self.answered.notify_all();
    }

    fn answer(&self, holder: &Arc<dyn Holder>, deadline: &Deadline, progress: &Mutex<Progress>) {
        let answer = holder.answer(deadline);
        if answer == Answer::Done {
            self.forget(holder.as_ref());
        }
        *lock(progress) = match answer {
            Answer::Done => Progress::Done,
            Answer::Later => Progress::Open,
        };
    }
}

/// Nothing that panics runs under the locks of this room.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a thread with every signal blocked, so that none of the program's is ever handled on it.
fn start_thread(run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mask = lease::block_all_signals();
    let name = "folio-keeper".to_string();
    let spawned = std::thread::Builder::new().name(name).spawn(run);
    lease::restore_signals(&mask);
    spawned.map(drop)
}

/// The keeper held still, so that the process can be forked: no answer is under way, and no lease is listed, dropped or
/// looked at meanwhile.
pub(crate) struct Still(Option<Held>);

struct Held {
    thread: i32,
    list: MutexGuard<'static, List>,
    /// No answer starts on a thread of its own.
    _answering: MutexGuard<'static, usize>,
}

/// Holds the keeper still, if there is one.
pub(crate) fn hold_still() -> Still {
    let here = KEEPER.get().copied().flatten();
    let found = here.map_or(std::ptr::null_mut(), |here| here.load(Ordering::Acquire));
    // SAFETY: a keeper is never freed.
    #[allow(unsafe_code)]
    let keeper: Option<&'static Keeper> = unsafe { found.as_ref() };
    Still(keeper.and_then(|keeper| {
        let answering = lock(&keeper.answering);
        let none = keeper
            .answered
            .wait_while(answering, |answering| *answering > 0);
        Some(Held {
            thread: keeper.thread()?,
            _answering: none.unwrap_or_else(PoisonError::into_inner),
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
