//! The first touch of fresh memory: one byte in each page.

use std::hint::black_box;
use std::time::{Duration, Instant};

use stillmap::faults::{self, Faults};
use stillmap::{Anonymous, HugePages, Mapping, page};

/// How memory is had.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Fresh memory: what the allocator keeps goes back to the kernel first.
    Malloc,
    /// Memory that the allocator may have kept from the last time.
    MallocAgain,
    SmallPages,
    HugePages,
    /// Huge pages, faulted in by one call before the touching.
    Populated,
}

/// What it took to get the memory and touch all of it.
pub struct Cost {
    pub time: Duration,
    pub faults: Faults,
}

pub fn first_touch(how: How, len: usize) -> stillmap::Result<Cost> {
    if how != How::MallocAgain {
        give_back();
        // A virtual machine may have given free memory back to its host; getting that again is not what is measured.
        touch(&mut allocate(HugePages::Transparent, len)?);
    }
    let start = Instant::now();
    let before = faults::count();
    match how {
        How::Malloc | How::MallocAgain => {
            let mut bytes = Vec::<u8>::with_capacity(len);
            for byte in bytes.spare_capacity_mut()[..len]
                .iter_mut()
                .step_by(page::size())
            {
                byte.write(1);
            }
            Ok(cost(start, before, black_box(&bytes)))
        }
        How::SmallPages => {
            let mut bytes = allocate(HugePages::Never, len)?;
            touch(&mut bytes);
            Ok(cost(start, before, &bytes))
        }
        How::HugePages | How::Populated => {
            let mut bytes = allocate(HugePages::Transparent, len)?;
            if how == How::Populated {
                bytes.populate(..)?;
            }
            touch(&mut bytes);
            Ok(cost(start, before, &bytes))
        }
    }
}

/// Taken while the memory is still there: giving it back is another matter.
fn cost<T>(start: Instant, before: Faults, _alive: &T) -> Cost {
    Cost {
        time: start.elapsed(),
        faults: faults::count() - before,
    }
}

/// What the allocator keeps.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

pub fn allocate(how: HugePages, len: usize) -> stillmap::Result<Anonymous> {
    Anonymous::options().huge_pages(how).allocate(len)
}

pub fn touch(bytes: &mut [u8]) {
    for byte in black_box(bytes).iter_mut().step_by(page::size()) {
        *byte = 1;
    }
}
