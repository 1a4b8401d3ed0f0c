//! The keeper: the one thread that answers for every lease of the process.
//!
//! The kernel tells a break by a signal to this thread alone. It has every signal blocked and waits for that one, so the
//! program's handlers and masks are not touched, and nothing runs until a lease breaks. A signal says only "look": which
//! leases are broken is asked of the kernel, one by one, so nothing is lost when many break at once.
//!
//! Rules, because a writer that is held may be a thread of this very process:
//! - No lock of this room is held while a file is opened for writing, and none is ever waited for by such an open.
//! - The lock of the list is held for a moment only; an answer, which may take seconds, is given without it.
//!
//! A forked process has the list in its memory, but neither the thread nor a right to the leases. It finds no keeper
//! (`MADV_WIPEONFORK`), and makes one of its own at its first lease.

use crate::region::Region;
use crate::sys::lease::{self, Lease};
use crate::sys::memory::{self as mapping, Pages};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long to wait before an answer that failed is tried again.
const AGAIN: Duration = Duration::from_millis(50);

/// Whoever holds a lease, and knows what to do when it breaks.
pub(crate) trait Holder: Send + Sync {
    /// True if somebody waits for the file and was not answered yet.
    fn is_broken(&self) -> bool;

    /// Makes the holder independent of the file and gives the lease back. Called on the keeper's thread.
    fn answer(&self, deadline: &Deadline) -> Answer;

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
#[derive(Debug)]
pub(crate) struct Deadline {
    broken: Instant,
    time: Duration,
}

impl Deadline {
    fn starting_now() -> Self {
        Deadline {
            broken: Instant::now(),
            time: lease::break_time(),
        }
    }

    /// True for the last tenth of the time, while the lease still holds.
    pub(crate) fn is_near(&self) -> bool {
        let margin = (self.time / 10).max(Duration::from_millis(200));
        let passed = self.broken.elapsed();
        passed + margin >= self.time && !self.is_over()
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
type List = Vec<Arc<dyn Holder>>;

/// The thread of this process and what it watches.
pub(crate) struct Keeper {
    thread: OnceLock<io::Result<i32>>,
    list: Mutex<List>,
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
                list: Mutex::new(Vec::new()),
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
        let thread = self.thread.get_or_init(|| start_thread(self));
        thread.as_ref().ok().copied()
    }

    /// Takes a lease whose breaks come to this keeper. `holder` has to be given to [`Keeper::watch`] next.
    pub(crate) fn take(&'static self, fd: BorrowedFd<'_>, lease: Lease) -> io::Result<()> {
        let thread = self.thread();
        let thread = thread.ok_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN))?;
        lease::take(fd, lease, thread)
    }

    /// Answers for a lease from here on. False if it is broken already: then nobody else answers.
    pub(crate) fn watch(&self, holder: Arc<dyn Holder>) -> bool {
        let mut list = self.list();
        // Under the lock: a break before this line is seen here, one after it by the keeper.
        if holder.is_broken() {
            return false;
        }
        holder.place().0.store(list.len(), Ordering::Relaxed);
        list.push(holder);
        true
    }

    /// Answers no longer. The keeper may be in the middle of an answer still.
    pub(crate) fn forget(&self, holder: &dyn Holder) {
        let mut list = self.list();
        let place = holder.place().0.load(Ordering::Relaxed);
        // By address, since a holder that is done may have been taken out already.
        let there = list
            .get(place)
            .is_some_and(|found| std::ptr::addr_eq(Arc::as_ptr(found), std::ptr::from_ref(holder)));
        if there {
            list.swap_remove(place);
            if let Some(moved) = list.get(place) {
                moved.place().0.store(place, Ordering::Relaxed);
            }
        }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // Nothing panics while the lock is held.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keeper's thread.
    fn run(&self) -> ! {
        let mut open: Vec<(Arc<dyn Holder>, Deadline)> = Vec::new();
        loop {
            lease::wait_for_break((!open.is_empty()).then_some(AGAIN));
            self.collect_broken(&mut open);
            open.retain(|(holder, deadline)| match holder.answer(deadline) {
                Answer::Done => {
                    self.forget(holder.as_ref());
                    false
                }
                Answer::Later => true,
            });
        }
    }

    /// Adds what was broken since the last look.
    fn collect_broken(&self, open: &mut Vec<(Arc<dyn Holder>, Deadline)>) {
        for holder in self.list().iter() {
            let known = open.iter().any(|(known, _)| Arc::ptr_eq(known, holder));
            if !known && holder.is_broken() {
                open.push((Arc::clone(holder), Deadline::starting_now()));
            }
        }
    }
}

/// Starts the thread with every signal blocked, so that none of the program's is ever handled on it.
fn start_thread(keeper: &'static Keeper) -> io::Result<i32> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let mask = lease::block_all_signals();
    let spawned = std::thread::Builder::new()
        .name("folio-keeper".into())
        .spawn(move || {
            // The receiver waits for this.
            let _ = tell.send(lease::thread_id());
            keeper.run()
        });
    lease::restore_signals(&mask);
    spawned?;
    told.recv().map_err(io::Error::other)
}

/// The keeper held still, so that the process can be forked: no lease is listed, dropped or looked at meanwhile.
pub(crate) struct Still(Option<(i32, MutexGuard<'static, List>)>);

/// Holds the keeper still, if there is one.
pub(crate) fn hold_still() -> Still {
    let here = KEEPER.get().copied().flatten();
    let found = here.map_or(std::ptr::null_mut(), |here| here.load(Ordering::Acquire));
    // SAFETY: a keeper is never freed.
    #[allow(unsafe_code)]
    let keeper: Option<&'static Keeper> = unsafe { found.as_ref() };
    Still(keeper.and_then(|keeper| Some((keeper.thread()?, keeper.list()))))
}

impl Still {
    /// The id of the keeper's thread, if it runs.
    pub(crate) fn thread(&self) -> Option<i32> {
        self.0.as_ref().map(|(thread, _)| *thread)
    }

    /// To be called first in the forked child: where its parent's leased mappings are, the child has nothing, and
    /// nothing else must ever come to be there, since references may point to it. Touching it ends the child.
    pub(crate) fn in_child(self) {
        let Some((_, list)) = self.0 else {
            return;
        };
        for holder in list.iter() {
            let (start, len) = holder.range();
            // Where something is mapped after all (a copy, made before the fork), it is the right thing.
            if let Ok(plug) = Region::placed(len, mapping::Place::At(start), Pages::None) {
                std::mem::forget(plug);
            }
        }
    }
}
