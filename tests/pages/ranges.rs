//! One range rule for all operations, compared with an oracle for one byte at a time; neighbouring mappings stay as
//! they are.

use crate::flags::pages_with;
use crate::kinds::{self, Deed};
use crate::support::child::scenario;
use crate::support::kernel::{mappings, page_size};
use crate::support::random::runner;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use stillmap::{Advice, Anonymous, Error, Pages};

/// Advice that leaves a trace in VmFlags: what it sets, what it clears, and whether a page in part is taken.
const TRACED: [(Advice, &str, &[&str], bool); 7] = [
    (Advice::Sequential, "sr", &["rr"], true),
    (Advice::Random, "rr", &["sr"], true),
    (Advice::Normal, "", &["sr", "rr"], true),
    (Advice::DontDump, "dd", &[], true),
    (Advice::DoDump, "", &["dd"], false),
    (Advice::HugePage, "hg", &["nh"], true),
    (Advice::NoHugePage, "nh", &["hg"], true),
];

const FLAGS: [&str; 5] = ["sr", "rr", "dd", "hg", "nh"];

type Marks = BTreeMap<usize, BTreeSet<String>>;

/// The pages that advice for `range` may reach, one page at a time.
fn pages_of(bytes: &[u8], range: &Range<usize>, partly: bool) -> BTreeSet<usize> {
    let (start, size) = (bytes.as_ptr() as usize, kinds::page_size_of(bytes));
    let end = start + bytes.len();
    let mut pages = BTreeSet::new();
    for page in (start / size * size..end).step_by(size) {
        // Those of the bytes that are in this page.
        let mut ours = page.max(start) - start..end.min(page + size) - start;
        let reached = if partly {
            ours.start < range.end && range.start < ours.end && !range.is_empty()
        } else {
            ours.all(|byte| range.contains(&byte))
        };
        if reached {
            pages.extend((page..page + size).step_by(page_size()));
        }
    }
    pages
}

fn mark(marks: &mut Marks, pages: BTreeSet<usize>, set: &str, clear: &[&str]) {
    for page in pages {
        let flags = marks.entry(page).or_default();
        flags.retain(|flag| !clear.contains(&flag.as_str()));
        if !set.is_empty() {
            flags.insert(set.to_owned());
        }
        if flags.is_empty() {
            marks.remove(&page);
        }
    }
}

/// Looks at pages that were mapped `before` and are still: threads of the crate come and go with theirs.
fn assert_marks(before: &[Range<usize>], expected: &Marks, what: &str) {
    let found = pages_with(&FLAGS);
    let after = mapped();
    let stayed = |page: &usize| {
        [before, &after[..]]
            .iter()
            .all(|areas| areas.iter().any(|area| area.contains(page)))
    };
    let pages: BTreeSet<&usize> = found.keys().chain(expected.keys()).collect();
    let wrong: Vec<_> = pages
        .into_iter()
        .filter(|page| found.get(page) != expected.get(page) && stayed(page))
        .map(|page| (format!("{page:#x}"), found.get(page), expected.get(page)))
        .collect();
    assert!(
        wrong.is_empty(),
        "{what}: (page, found, expected): {wrong:?}"
    );
}

fn mapped() -> Vec<Range<usize>> {
    mappings().into_iter().map(|area| area.range).collect()
}

/// Random advice to random ranges.
pub struct Advise {
    cases: Vec<(usize, usize, usize)>,
    seen: usize,
}

impl Deed for Advise {
    fn on(&mut self, name: &str, pages: Pages<'_>, bytes: &[u8], is_heap: bool) {
        // Nearly all of a long one would only make the oracle slow.
        let size = bytes.len().min(kinds::PAGES * kinds::page_size_of(bytes));
        let (before, mut marks) = (mapped(), pages_with(&FLAGS));
        for &(advice, a, b) in &self.cases {
            let (a, b) = (a % (size + 1), b % (size + 1));
            let range = a.min(b)..a.max(b);
            let (advice, set, clear, partly) = TRACED[advice % TRACED.len()];
            self.seen += 1;
            // A kernel without transparent huge pages.
            if !advice.is_supported() {
                continue;
            }
            pages
                .advise(range.clone(), advice)
                .unwrap_or_else(|e| panic!("{name}: {advice:?} on {range:?}: {e}"));
            if !is_heap {
                mark(&mut marks, pages_of(bytes, &range, partly), set, clear);
            }
            assert_marks(
                &before,
                &marks,
                &format!("{name}: {advice:?} on {range:?} of {}", bytes.len()),
            );
        }
        // As it was, for the next one.
        for advice in [Advice::Normal, Advice::DoDump] {
            pages.advise(.., advice).expect("to the whole of it");
        }
    }
}

#[test]
fn advice_reaches_the_pages_of_its_range_on_every_type_and_no_others() {
    if !crate::support::kernel::may_lock() {
        return;
    }
    scenario!(|| {
        random_advice(3, |advise| {
            kinds::each(advise);
            assert!(advise.seen >= 20 * 20);
        });
    })
    .succeed();
}

/// Some times, in a process where no other code advises.
pub fn random_advice(times: u32, advise: impl Fn(&mut Advise)) {
    let number = || any::<usize>();
    let case = (number(), number(), number());
    let cases = proptest::collection::vec(case, 20);
    let done = runner(times).run(&cases, |cases| {
        advise(&mut Advise { cases, seen: 0 });
        Ok(())
    });
    done.expect("all cases");
}

#[test]
fn a_neighbour_that_the_kernel_merged_with_us_is_not_advised() {
    scenario!(|| {
        let page = page_size();
        // Three mappings side by side, which the kernel keeps as one area.
        let room = Anonymous::new(12 * page).expect("some room");
        let start = room.as_ptr() as usize;
        drop(room);
        let at = |offset: usize, len: usize| {
            let memory = Anonymous::options()
                .fixed_address(start + offset * page)
                .allocate(len * page);
            memory.expect("a mapping beside the others")
        };
        let (_left, middle, _right) = (at(0, 4), at(4, 4), at(8, 4));
        let area = crate::support::kernel::mapping_at(start).expect("it is mapped");
        assert!(area.range.end >= start + 12 * page, "not merged: {area:?}");
        let mut marks = pages_with(&FLAGS);
        middle
            .pages()
            .advise(1..4 * page - 1, Advice::DontDump)
            .expect("advice");
        let ours = pages_of(&middle, &(0..4 * page), true);
        assert_eq!(ours.len(), 4);
        mark(&mut marks, ours, "dd", &[]);
        assert_marks(&mapped(), &marks, "in the middle of three");
    })
    .succeed();
}

/// All that can be asked for at a range.
pub struct Try(Vec<(Bound<usize>, Bound<usize>)>);

impl Deed for Try {
    fn on(&mut self, name: &str, pages: Pages<'_>, bytes: &[u8], is_heap: bool) {
        let size = bytes.len();
        for &range in &self.0 {
            let inside = bounds(range, size);
            let locked = match pages.lock(range).map(drop) {
                Err(Error::Unsupported { .. }) if is_heap => Ok(()),
                locked => locked,
            };
            let results = [
                pages.advise(range, Advice::WillNeed),
                pages.prefetch(range).map(drop),
                pages.populate(range),
                locked,
            ];
            for result in results {
                match (result, inside) {
                    (Ok(()), true) => {}
                    (Err(Error::OutOfBounds { size: said, .. }), false) => {
                        assert_eq!(said, size as u64, "{name}");
                    }
                    (result, _) => panic!("{name}: {range:?} of {size}: {result:?}"),
                }
            }
        }
    }
}

/// The rule in numbers that cannot overflow.
fn bounds(range: (Bound<usize>, Bound<usize>), size: usize) -> bool {
    let start = match range.0 {
        Bound::Included(n) => n as u128,
        Bound::Excluded(n) => n as u128 + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.1 {
        Bound::Included(n) => n as u128 + 1,
        Bound::Excluded(n) => n as u128,
        Bound::Unbounded => size as u128,
    };
    start <= end && end <= size as u128
}

#[test]
fn a_range_is_inside_or_an_error_that_says_the_bounds_on_every_type() {
    if !crate::support::kernel::may_lock() {
        return;
    }
    kinds::each(&mut Try::at_every_edge());
}

impl Try {
    pub fn at_every_edge() -> Self {
        let page = page_size();
        let numbers = [
            0,
            1,
            page - 1,
            page,
            kinds::PAGES * page,
            usize::MAX - 1,
            usize::MAX,
        ];
        let ends = || {
            let both = |n| [Bound::Included(n), Bound::Excluded(n)];
            numbers.into_iter().flat_map(both).chain([Bound::Unbounded])
        };
        let ranges = ends().flat_map(|start| ends().map(move |end| (start, end)));
        Try(ranges.collect())
    }
}

#[test]
fn advice_that_this_kernel_knows_is_accepted() {
    let mut memory = Anonymous::new(8 << 20).expect("memory");
    memory.fill(1);
    for advice in [
        Advice::Normal,
        Advice::WillNeed,
        Advice::Cold,
        Advice::PageOut,
        Advice::HugePage,
        Advice::NoHugePage,
        Advice::PopulateRead,
        Advice::PopulateWrite,
        Advice::DontDump,
        Advice::DoDump,
        Advice::Mergeable,
        Advice::Unmergeable,
    ] {
        let done = memory.pages().advise(.., advice);
        assert_eq!(done.is_ok(), advice.is_supported(), "{advice:?}: {done:?}");
    }
    assert!(
        memory.iter().all(|&byte| byte == 1),
        "advice changes no byte"
    );
}

#[test]
fn refused_advice_is_an_error() {
    let dir = crate::support::temp_dir();
    let path = crate::support::file_with(dir.path(), "file", &[1; 4096]);
    let file = std::fs::File::open(path).expect("open");
    // SAFETY: no other code knows the file.
    let snapshot = unsafe { stillmap::Snapshot::map_unguarded(&file) }.expect("map");
    let error = snapshot
        .pages()
        .advise(.., Advice::PopulateWrite)
        .expect_err("it is read-only");
    assert!(error.raw_os_error().is_some(), "{error:?}");
}
