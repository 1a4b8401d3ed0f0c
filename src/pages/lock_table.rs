//! mlock(2) made to nest: the kernel keeps one flag for a page, so who unlocks it first unlocks it for everybody.
//!
//! Every range that is locked through here is counted, and a page is unlocked with the last range that holds it.
//! A page that somebody else had locked before (mlockall(2), or a neighbour on the heap) stays locked.

use crate::sys::mlock::{is_locked, mlock, munlock};
use crate::sys::page_size;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Addresses that are locked: the start of each run, and what is known of it. Runs do not overlap.
type Runs = BTreeMap<usize, Run>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    end: usize,
    /// How many ranges hold it.
    count: usize,
    /// Somebody else had locked it already.
    foreign: bool,
}

static LOCKS: Mutex<Locks> = Mutex::new(Locks {
    process: 0,
    runs: Runs::new(),
});

struct Locks {
    /// A forked child inherits this, but no locks.
    process: u32,
    runs: Runs,
}

/// How many runs there are: lets those who lock nothing pass by the mutex.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The locks of this process. Each step below is one insertion or removal, so a panic leaves nothing half done.
fn locks() -> MutexGuard<'static, Locks> {
    let mut locks = LOCKS.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if locks.process != process {
        locks.process = process;
        locks.runs.clear();
    }
    locks
}

/// Locks whole pages. On failure nothing is locked that was not.
pub(crate) fn lock(range: Range<usize>) -> io::Result<()> {
    let runs = &mut locks().runs;
    let done = take(runs, &range, is_locked)
        .into_iter()
        .try_for_each(mlock);
    if done.is_err() {
        release(runs, &range).into_iter().for_each(munlock);
    }
    COUNT.store(runs.len(), Ordering::Relaxed);
    done
}

/// Ends one lock of that range.
pub(crate) fn unlock(range: Range<usize>) {
    let runs = &mut locks().runs;
    release(runs, &range).into_iter().for_each(munlock);
    COUNT.store(runs.len(), Ordering::Relaxed);
}

/// Unlocks pages that nobody locked through here.
pub(crate) fn unlock_all(range: Range<usize>) {
    munlock(range);
}

/// Other pages have come to these addresses: locks those that were locked.
pub(crate) fn renew(range: Range<usize>) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let runs = &mut locks().runs;
    split(runs, range.start);
    split(runs, range.end);
    for (&start, run) in runs.range(range) {
        // Nobody is there to hear of a failure; the bytes are as they were, and could be written to swap.
        let _ = mlock(start..run.end);
    }
}

/// Nothing is mapped there any more. Only a lock that was leaked can have been left.
pub(crate) fn forget(range: Range<usize>) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return;
    }
    let runs = &mut locks().runs;
    split(runs, range.start);
    split(runs, range.end);
    runs.retain(|start, _| !range.contains(start));
    COUNT.store(runs.len(), Ordering::Relaxed);
}

/// Counts a range once more; gives the parts that have to be locked. `is_foreign` says whether a part was locked by
/// somebody else: asked of the first and the last page by themselves, since a block of the heap shares only those.
fn take(
    runs: &mut Runs,
    range: &Range<usize>,
    mut is_foreign: impl FnMut(&Range<usize>) -> bool,
) -> Vec<Range<usize>> {
    split(runs, range.start);
    split(runs, range.end);
    let mut gaps = Vec::new();
    let mut next = range.start;
    for (&start, run) in runs.range_mut(range.clone()) {
        gaps.push(next..start);
        run.count += 1;
        next = run.end;
    }
    gaps.push(next..range.end);
    gaps.retain(|gap| !gap.is_empty());
    let page = page_size();
    for gap in &gaps {
        let first = gap.start..gap.end.min(gap.start + page);
        let last = first.end.max(gap.end - page)..gap.end;
        let middle = first.end..last.start;
        for part in [first, middle, last] {
            if !part.is_empty() {
                let foreign = is_foreign(&part);
                let (end, count) = (part.end, 1);
                let run = Run {
                    end,
                    count,
                    foreign,
                };
                runs.insert(part.start, run);
            }
        }
    }
    gaps
}

/// Counts a range once less; gives the parts that are to be unlocked.
fn release(runs: &mut Runs, range: &Range<usize>) -> Vec<Range<usize>> {
    let mut free: Vec<Range<usize>> = Vec::new();
    let inside: Vec<usize> = runs.range(range.clone()).map(|(&start, _)| start).collect();
    for start in inside {
        let Some(run) = runs.get_mut(&start) else {
            continue;
        };
        run.count -= 1;
        let Run {
            end,
            count,
            foreign,
        } = *run;
        if count > 0 {
            continue;
        }
        runs.remove(&start);
        match free.last_mut() {
            _ if foreign => {}
            Some(before) if before.end == start => before.end = end,
            _ => free.push(start..end),
        }
    }
    free
}

/// Makes a run end at `at`, if one holds it inside.
fn split(runs: &mut Runs, at: usize) {
    let Some((_, run)) = runs.range_mut(..at).next_back() else {
        return;
    };
    if run.end > at {
        let rest = *run;
        run.end = at;
        runs.insert(at, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One count for each page: what the runs have to say together.
    #[derive(Debug, PartialEq)]
    struct Model(Vec<usize>);

    const PAGES: usize = 24;

    fn pages(range: &Range<usize>) -> Range<usize> {
        range.start / page_size()..range.end / page_size()
    }

    fn counts(runs: &Runs) -> Model {
        let mut counts = vec![0; PAGES];
        for (&start, run) in runs {
            for page in pages(&(start..run.end)) {
                assert_eq!(counts[page], 0, "runs overlap: {runs:?}");
                counts[page] = run.count;
            }
        }
        Model(counts)
    }

    #[test]
    fn counting_runs_is_counting_pages() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut runs = Runs::new();
        let mut model = Model(vec![0; PAGES]);
        let mut held: Vec<Range<usize>> = Vec::new();
        for _ in 0..20_000 {
            let mut touched = Vec::new();
            let before = model.0.clone();
            if held.is_empty() || random(2) == 0 {
                let first = random(PAGES - 1);
                let last = first + random(PAGES - first);
                let range = first * page_size()..(last + 1).min(PAGES) * page_size();
                touched.extend(take(&mut runs, &range, |_| false));
                pages(&range).for_each(|page| model.0[page] += 1);
                held.push(range);
            } else {
                let range = held.swap_remove(random(held.len()));
                touched.extend(release(&mut runs, &range));
                pages(&range).for_each(|page| model.0[page] -= 1);
            }
            assert_eq!(counts(&runs), model);
            let mut changed: Vec<usize> = touched.iter().flat_map(pages).collect();
            changed.sort_unstable();
            let turned = |page: &usize| (before[*page] == 0) != (model.0[*page] == 0);
            let expected: Vec<usize> = (0..PAGES).filter(turned).collect();
            assert_eq!(
                changed, expected,
                "locked and unlocked exactly where it counts"
            );
        }
    }

    #[test]
    fn what_others_locked_stays_locked() {
        let page = page_size();
        let mut runs = Runs::new();
        let first_page_is_theirs = |part: &Range<usize>| part.start == 0;
        take(&mut runs, &(0..8 * page), first_page_is_theirs);
        let mut free = release(&mut runs, &(0..8 * page)).into_iter();
        assert_eq!((free.next(), free.next()), (Some(page..8 * page), None));
        assert!(runs.is_empty());
    }
}
