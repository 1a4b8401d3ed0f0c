//! The checks for every type, on a file system with clones and on reserved huge pages.

use crate::harmless::AdviseAll;
use crate::kinds::{self, Deed};
use crate::lock::Lock;
use crate::populate::Populate;
use crate::ranges::{Try, random_advice};
use crate::residency::Look;
use crate::support::child::{argument, scenario};
use crate::support::disk::LoopFs;
use crate::support::kernel::{can_populate, page_size};
use crate::support::pool::{HugePagePool, huge_page_size};
use std::path::Path;
use stillmap::{Anonymous, Backing, HugePages, Private};

#[test]
fn with_clones() {
    let mut child = scenario!(|| {
        let path = argument("DISK");
        let path = Path::new(&path);
        kinds::each_in(path, &mut Look);
        kinds::each_in(path, &mut Try::at_every_edge());
        if can_populate() {
            kinds::each_in(path, &mut Populate);
        }
        kinds::each_in(path, &mut Lock);
        kinds::each_in(path, &mut AdviseAll);
        random_advice(1, |advise| kinds::each_in(path, advise));
        let clone = Private::open(path.join("large")).expect("open");
        assert_eq!(clone.backing(), Backing::Cloned);
    });
    let Some(disk) = LoopFs::new("xfs", 300 << 20) else {
        return;
    };
    child.argument("DISK", disk.path()).succeed();
}

#[test]
fn in_reserved_huge_pages() {
    let mut child = scenario!(|| {
        let on = |deed: &mut dyn FnMut(&str, &Anonymous)| {
            for shared in [false, true] {
                let options = Anonymous::options()
                    .huge_pages(HugePages::Reserved)
                    .shared(shared);
                let mut memory = options
                    .allocate(huge_page_size() + 123)
                    .expect("huge pages");
                memory[page_size()] = 7;
                deed("reserved huge pages", &memory);
            }
        };
        on(&mut |name, memory| Look.on(name, memory.pages(), memory, false));
        on(&mut |name, memory| Try::at_every_edge().on(name, memory.pages(), memory, false));
        if can_populate() {
            on(&mut |name, memory| Populate.on(name, memory.pages(), memory, false));
        }
        on(&mut |name, memory| Lock.on(name, memory.pages(), memory, false));
        on(&mut |name, memory| AdviseAll.on(name, memory.pages(), memory, false));
        random_advice(1, |advise| {
            on(&mut |name, memory| advise.on(name, memory.pages(), memory, false))
        });
    });
    let Some(_pool) = HugePagePool::of(4) else {
        return;
    };
    child.succeed();
}
