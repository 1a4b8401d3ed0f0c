//! Page faults, counted for each thread.

use stillmap::{Anonymous, HugePages, faults, page};

fn touch(memory: &mut Anonymous) -> faults::Faults {
    let before = faults::of_thread();
    for byte in memory.iter_mut().step_by(page::size()) {
        *byte = 1;
    }
    faults::of_thread() - before
}

fn memory(how: HugePages) -> Anonymous {
    let memory = Anonymous::options().huge_pages(how).allocate(16 << 20);
    memory.expect("memory")
}

#[test]
fn each_small_page_is_one_and_a_huge_page_is_one() {
    let pages = (16 << 20) / page::size() as u64;
    let small = touch(&mut memory(HugePages::Never));
    assert!(small.minor >= pages, "{small}");
    let mut huge = memory(HugePages::Transparent);
    let faults = touch(&mut huge);
    let got = huge.pages().huge_bytes().expect("huge bytes");
    if got < 8 << 20 {
        return crate::support::skip(format_args!("only {got} bytes in huge pages"));
    }
    assert!(
        faults.minor < pages / 2 + 100,
        "{faults} for {got} bytes in huge pages"
    );
}

#[test]
fn after_populate_there_are_none_to_speak_of() {
    if !crate::support::kernel::can_populate() {
        return;
    }
    let mut memory = memory(HugePages::Never);
    memory.pages().populate(..).expect("populate");
    let faults = touch(&mut memory);
    // User-mode Linux has some at pages that are there.
    let pages = (16 << 20) / page::size() as u64;
    assert!(faults.minor < pages / 4, "{faults} for {pages} pages");
}

#[test]
fn other_threads_count_for_themselves() {
    let before = faults::of_thread();
    let theirs = std::thread::spawn(|| touch(&mut memory(HugePages::Never)));
    let theirs = theirs.join().expect("the thread");
    let ours = faults::of_thread() - before;
    assert!(
        theirs.minor >= 4096 * 4096 / page::size() as u64,
        "{theirs}"
    );
    assert!(ours.minor < theirs.minor, "{ours}");
    assert_eq!(before - faults::of_thread(), faults::Faults::default());
    assert!(ours.to_string().contains(" minor, "));
}
