//! What search tools and search engines do with mapped files, without a `cfg`.

use stable_deref_trait::StableDeref;
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use stillmap::{Anonymous, Draft, Exclusive, Live, Private, Shared, Snapshot, open_all};

/// As the searcher of ripgrep: a mapping if there can be one, else the caller reads.
pub fn map(file: &File) -> Option<Snapshot> {
    let options = Snapshot::options().require_mapping(true);
    options.from_file(file).ok()
}

/// As ripgrep's arguments: paths, and `-` for standard input.
pub fn count(paths: &[PathBuf], byte: u8) -> io::Result<usize> {
    let mut found = 0;
    for bytes in open_all(paths) {
        found += bytes?.iter().filter(|&&b| b == byte).count();
    }
    let stdin = Snapshot::open_or_stdin("-")?;
    Ok(found + stdin.iter().filter(|&&b| b == byte).count())
}

/// As the `OwnedBytes` of tantivy: a slice, and its owner.
#[derive(Clone)]
pub struct OwnedBytes {
    owner: Arc<dyn Deref<Target = [u8]> + Send + Sync>,
}

impl OwnedBytes {
    pub fn new<T: StableDeref + Deref<Target = [u8]> + Send + Sync + 'static>(owner: T) -> Self {
        OwnedBytes {
            owner: Arc::new(owner),
        }
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.owner
    }
}

/// As the `MmapDirectory` of tantivy.
pub fn open_read(path: &Path) -> io::Result<OwnedBytes> {
    let bytes = Snapshot::open(path)?;
    let _ = bytes.pages().prefetch(..)?;
    Ok(OwnedBytes::new(bytes))
}

/// As above.
pub fn atomic_write(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut draft = Draft::create(path, data.len())?;
    draft.copy_from_slice(data);
    Ok(draft.commit()?)
}

/// Every other type.
pub fn others(path: &Path) -> stillmap::Result<usize> {
    let mut memory = Anonymous::new(1 << 20)?;
    let mut private = Private::open(path)?;
    private[0] = 1;
    memory[0] = private[0];
    let counter = Shared::<AtomicU32>::new()?;
    let _locked = counter.pages().lock(..)?;
    let mut start = [0; 16];
    let read = Live::open(path)?.read_at(0, &mut start)?;
    let file = Exclusive::open(path)?;
    file.close()?;
    Ok(read + memory.freeze()?.len())
}
