//! `Draft`: the old file or the new one, whole, whatever happens.
#![allow(clippy::disallowed_methods)] // tests look at the kernel directly, past the crate

#[path = "../support/mod.rs"]
mod support;

mod forked;
mod full;
mod injected;
mod killed;
mod model;
mod paths;
mod refused;
mod streams;

use std::path::Path;

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("list a directory");
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A draft that holds `bytes`, whichever way they are stored: in memory, in the file, or as a sparse file.
fn draft_of(
    options: folio::DraftOptions,
    path: &Path,
    bytes: &[u8],
) -> folio::Result<folio::Draft> {
    let mut draft = options.create(path, bytes.len())?;
    draft.copy_from_slice(bytes);
    Ok(draft)
}

/// Every way in which a draft may keep its bytes.
fn stores() -> [folio::DraftOptions; 3] {
    let options = folio::Draft::options;
    [options(), options().memory_limit(0), options().sparse(true)]
}
