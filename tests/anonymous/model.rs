//! Random sequences of resizes, writes and discards against a `Vec<u8>`.

use crate::support::bytes::assert_same;
use crate::support::pool::{HugePagePool, huge_page_size};
use crate::support::random::runner;
use proptest::prelude::*;
use stillmap::{Anonymous, AnonymousOptions, HugePages};

#[derive(Debug, Clone)]
enum Step {
    Resize(usize),
    /// Where, how much and with what, cut to what there is.
    Fill(usize, usize, u8),
    Discard(usize, usize),
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![
        Just(0),
        0..most,
        0..20_000usize,
        // Next to a page's edge.
        (0..most / 4096, -1..=1isize).prop_map(|(n, off)| (n * 4096).saturating_add_signed(off)),
    ];
    let step = prop_oneof![
        len.prop_map(Step::Resize),
        (0..most, 0..most, 1..=255u8).prop_map(|(at, len, byte)| Step::Fill(at, len, byte)),
        (0..most, 0..most).prop_map(|(at, len)| Step::Discard(at, len)),
    ];
    proptest::collection::vec(step, 1..20)
}

fn assert_behaves_like_a_vec(options: AnonymousOptions, most: usize, cases: u32) {
    let run = |(first, steps): (usize, Vec<Step>)| {
        let mut memory = options.allocate(first).unwrap();
        let mut model = vec![0_u8; first];
        for step in steps {
            match step {
                Step::Resize(len) => {
                    memory.resize(len).unwrap();
                    model.resize(len, 0);
                }
                Step::Fill(at, len, byte) => {
                    let at = at.min(model.len());
                    let end = (at + len).min(model.len());
                    memory[at..end].fill(byte);
                    model[at..end].fill(byte);
                }
                Step::Discard(at, len) => {
                    let at = at.min(model.len());
                    let end = (at + len).min(model.len());
                    memory.discard(at..end).unwrap();
                    model[at..end].fill(0);
                }
            }
            assert_same(&memory, &model, format_args!("{step:?}"));
        }
        assert_same(&memory.freeze().unwrap(), &model, "frozen");
        Ok(())
    };
    runner(cases).run(&(0..most, steps(most)), run).unwrap();
}

#[test]
fn private() {
    assert_behaves_like_a_vec(Anonymous::options(), 300_000, 100);
}

#[test]
fn shared() {
    assert_behaves_like_a_vec(Anonymous::options().shared(true), 300_000, 100);
}

#[test]
fn of_huge_pages() {
    let options = Anonymous::options().huge_pages(HugePages::Transparent);
    assert_behaves_like_a_vec(options, 9 << 20, 15);
    assert_behaves_like_a_vec(options.shared(true), 9 << 20, 15);
}

#[test]
fn of_reserved_huge_pages() {
    let Some(_pool) = HugePagePool::of(10) else {
        return;
    };
    // The larger one is made before the smaller one goes.
    let most = 5 * huge_page_size();
    for shared in [false, true] {
        let options = Anonymous::options().huge_pages(HugePages::Reserved);
        assert_behaves_like_a_vec(options.shared(shared), most, 10);
    }
}

#[test]
fn placed() {
    let options = Anonymous::options()
        .hint_address(0x2000_0000 << (usize::BITS / 2 - 16))
        .huge_pages(HugePages::Never);
    assert_behaves_like_a_vec(options, 100_000, 50);
}
