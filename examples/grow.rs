//! What anonymous memory costs, step by step: addresses are free, pages take RAM when touched and return it at once.

use std::io::{self, Write};

use stillmap::{Anonymous, HugePages, faults, page};

fn main() -> io::Result<()> {
    let (mib, page) = (1 << 20, page::size());
    let mut faulted = faults::of_thread().minor;
    let mut step = |what: &str, memory: &Anonymous| -> io::Result<()> {
        let resident = memory.pages().residency(..)?.resident_pages() * page / 1024;
        let now = faults::of_thread().minor;
        let faults = now - std::mem::replace(&mut faulted, now);
        let length = memory.len() / mib;
        writeln!(
            io::stdout(),
            "{what:<32} {length:>5} MiB {resident:>8} KiB in RAM {faults:>6} faults"
        )
    };
    // Small pages, so that they can be counted.
    let mut memory = Anonymous::options()
        .huge_pages(HugePages::Never)
        .allocate(64 * mib)?;
    step("allocate", &memory)?;
    memory[0] = 1;
    step("write one byte", &memory)?;
    touch(&mut memory[..16 * mib]);
    step("write to each page of a quarter", &memory)?;
    memory.resize(256 * mib)?;
    step("resize to four times", &memory)?;
    memory.resize(8 * mib)?;
    step("resize to half of what is touched", &memory)?;
    memory.discard(page..)?;
    step("discard all but the first page", &memory)?;
    assert!(memory[0] == 1 && memory[page..].iter().all(|&byte| byte == 0));
    let mut memory = Anonymous::options()
        .huge_pages(HugePages::Transparent)
        .allocate(64 * mib)?;
    touch(&mut memory);
    step("write to all, with huge pages", &memory)
}

fn touch(bytes: &mut [u8]) {
    bytes
        .iter_mut()
        .step_by(page::size())
        .for_each(|byte| *byte = 1);
}
