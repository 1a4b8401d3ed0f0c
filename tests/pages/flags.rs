//! `VmFlags` of /proc/self/smaps, page by page: the effect of advice, and on which pages.

use crate::support::kernel::page_size;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The areas of this process with their flags, in order.
pub fn areas() -> Vec<(Range<usize>, BTreeSet<String>)> {
    let text = std::fs::read_to_string("/proc/self/smaps").expect("read /proc/self/smaps");
    let mut areas = Vec::new();
    for line in text.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let (_, of_area) = areas.last_mut().expect("an area before its flags");
            *of_area = flags.split_whitespace().map(str::to_owned).collect();
        } else if let Some(range) = head(line) {
            areas.push((range, BTreeSet::new()));
        }
    }
    areas
}

fn head(line: &str) -> Option<Range<usize>> {
    let (range, _) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    Some(address(start)?..address(end)?)
}

/// Every page of the process that has one of these flags, and which.
pub fn pages_with(wanted: &[&str]) -> BTreeMap<usize, BTreeSet<String>> {
    let mut pages = BTreeMap::new();
    for (range, flags) in areas() {
        let found = flags
            .into_iter()
            .filter(|flag| wanted.contains(&flag.as_str()));
        let found: BTreeSet<String> = found.collect();
        if !found.is_empty() {
            let all = range.step_by(page_size());
            pages.extend(all.map(|page| (page, found.clone())));
        }
    }
    pages
}
