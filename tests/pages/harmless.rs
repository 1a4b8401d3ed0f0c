//! Advice of any kind, on any type: no byte changes, here or in a forked child, and the value can be used as before.

use crate::kinds::{self, Deed, HasPages};
use crate::support::bytes::pattern;
use crate::support::child::scenario;
use crate::support::kernel::page_size;
use crate::support::{file_with, skip, temp_dir};
use std::ops::DerefMut;
use stillmap::{Advice, Anonymous, Draft, Error, Exclusive, HugePages, Pages, Result};

const ALL: [Advice; 15] = [
    Advice::Normal,
    Advice::Sequential,
    Advice::Random,
    Advice::WillNeed,
    Advice::Cold,
    Advice::PageOut,
    Advice::HugePage,
    Advice::NoHugePage,
    Advice::Collapse,
    Advice::PopulateRead,
    Advice::PopulateWrite,
    Advice::DontDump,
    Advice::DoDump,
    Advice::Mergeable,
    Advice::Unmergeable,
];

pub struct AdviseAll;

impl Deed for AdviseAll {
    fn on(&mut self, name: &str, pages: Pages<'_>, bytes: &[u8], is_heap: bool) {
        let before = bytes.to_vec();
        let (third, page) = (bytes.len() / 3, page_size());
        let ranges = [
            0..bytes.len(),
            third..third * 2,
            0..0,
            bytes.len().min(page)..bytes.len(),
        ];
        for advice in ALL {
            for range in ranges.clone() {
                let done = pages.advise(range.clone(), advice);
                let what = format!("{name}: {advice:?} on {range:?}: {done:?}");
                match &done {
                    Ok(()) => {}
                    // Of no use on such pages; nothing to refuse on the heap, or on no pages.
                    Err(
                        Error::Os {
                            operation: "madvise",
                            ..
                        }
                        | Error::PagesLost { .. },
                    ) => {
                        assert!(!is_heap && !range.is_empty(), "{what}");
                    }
                    Err(_) => panic!("{what}"),
                }
                assert!(bytes == before, "{what}: bytes changed");
                assert!(child_sees(bytes, &before), "{what}: in a child");
            }
        }
        pages
            .populate(..)
            .unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert!(bytes == before, "{name}: populate");
    }
}

/// A child sees the same bytes, or none: touching memory that only its parent may use ends it by SIGSEGV.
fn child_sees(bytes: &[u8], expected: &[u8]) -> bool {
    // SAFETY: the child compares memory and ends; it takes no lock.
    match unsafe { libc::fork() } {
        // SAFETY: ends without running anything of ours.
        0 => unsafe { libc::_exit(i32::from(bytes != expected)) },
        child => {
            let mut status = 0;
            // SAFETY: our own child; `status` is valid for the result.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            status == 0 || libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV
        }
    }
}

#[test]
fn no_advice_changes_a_byte_of_any_type_here_or_in_a_child() {
    scenario!(|| kinds::each(&mut AdviseAll)).succeed();
}

/// Grows and shrinks what was advised in parts, which the kernel keeps as several areas.
fn resize<M: HasPages + DerefMut<Target = [u8]>>(
    name: &str,
    value: Result<M>,
    resize: fn(&mut M, usize) -> Result<()>,
) {
    let mut value = match value {
        Err(Error::Unprotectable { why, .. }) => return skip(format_args!("{name}: {why}")),
        value => value.unwrap_or_else(|e| panic!("{name}: {e}")),
    };
    let page = page_size();
    let mut model = pattern(3, value.len());
    value.copy_from_slice(&model);
    for (round, len) in [50, 49, 700, 3, 2000].into_iter().enumerate() {
        for (first, advice) in [
            (3, Advice::DontDump),
            (5, Advice::Random),
            (9, Advice::NoHugePage),
        ] {
            // A kernel without transparent huge pages.
            if !advice.is_supported() {
                continue;
            }
            let pages = (first * page).min(value.len())..((first + 2) * page).min(value.len());
            value.all_pages().advise(pages, advice).expect("advice");
        }
        resize(&mut value, len * page + 5).unwrap_or_else(|e| panic!("{name}, {round}: {e:?}"));
        model.resize(len * page + 5, 0);
        assert!(value[..] == model[..], "{name}, {round}");
        let last = model.len() - 1;
        (value[last], model[last]) = (9, 9);
    }
}

#[test]
fn what_was_advised_in_parts_can_be_resized() {
    let len = kinds::PAGES * page_size();
    let dir = temp_dir();
    let memory = Anonymous::options;
    resize("private", memory().allocate(len), Anonymous::resize);
    resize(
        "shared",
        memory().shared(true).allocate(len),
        Anonymous::resize,
    );
    let huge = memory().huge_pages(HugePages::Transparent).allocate(len);
    resize("huge", huge, Anonymous::resize);
    let draft = Draft::create(dir.path().join("new"), len);
    resize("a draft in memory", draft, Draft::resize);
    let draft = Draft::options()
        .sparse(true)
        .create(dir.path().join("new"), len);
    resize("a sparse draft", draft, Draft::resize);
    let draft = Draft::options()
        .memory_limit(0)
        .create(dir.path().join("new"), len);
    match draft {
        Err(Error::TooLarge { .. }) => skip("no drafts in their files here"),
        draft => resize("a draft in its file", draft, Draft::resize),
    }
    let file = file_with(dir.path(), "edited", &pattern(1, len));
    resize("a file to edit", kinds::exclusive(&file), Exclusive::resize);
}

#[test]
fn advice_moves_with_the_bytes() {
    let page = page_size();
    let mut memory = Anonymous::new(8 * page).expect("memory");
    memory.fill(1);
    memory
        .pages()
        .advise(2 * page..4 * page, Advice::DontDump)
        .expect("advice");
    memory.resize(5000 * page).expect("resize");
    let start = memory.as_ptr() as usize;
    let hidden = crate::flags::pages_with(&["dd"]);
    let of_ours = |page: &&usize| (start..start + memory.len()).contains(*page);
    let hidden: Vec<usize> = hidden
        .keys()
        .filter(of_ours)
        .map(|at| (at - start) / page)
        .collect();
    assert_eq!(hidden, [2, 3]);
}
