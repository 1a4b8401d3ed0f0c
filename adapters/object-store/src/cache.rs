//! A bounded cache of open snapshots.

use crate::file::{FileVersion, MappedFile};
use lru::LruCache;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Paths remembered for each file: hard links and symbolic links give a file more than one.
const PATHS_PER_FILE: usize = 4;

/// The least time between two sweeps. A sweep looks at every cached file, about 50 ns each.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How much the store keeps open between reads.
///
/// These are limits of the cache. Bytes that a caller holds keep their snapshot, whether it is cached or not.
///
/// ```
/// use stillmap_object_store::{CacheLimits, StillmapFileSystem};
/// let limits = CacheLimits { files: 16, ..CacheLimits::default() };
/// let store = StillmapFileSystem::new().with_cache_limits(limits);
/// # let _ = store;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// The most files. Each is one mapping. Default 1024; 0 turns the cache off.
    pub files: usize,
    /// The most file descriptors. A leased snapshot has one. Default: a quarter of `RLIMIT_NOFILE`.
    pub descriptors: usize,
    /// The most bytes mapped. A mapping takes no RAM of its own, but a snapshot is copied into RAM (or, when it is large,
    /// to disk) if another process opens its file for writing. Default 64 GiB.
    pub bytes: u64,
    /// How long a snapshot is kept after its last use. A deleted file takes disk space until then. Default 30 s.
    pub idle: Duration,
}

impl Default for CacheLimits {
    fn default() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 4;
        CacheLimits {
            files: 1024,
            descriptors: usize::try_from(descriptors).unwrap_or(usize::MAX),
            bytes: 64 << 30,
            idle: Duration::from_secs(30),
        }
    }
}

/// Snapshots that are leased or sealed: while that holds, the file has the bytes of the snapshot.
#[derive(Debug)]
pub(crate) struct Cache {
    limits: CacheLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    files: LruCache<FileVersion, Entry>,
    /// The last version seen under a path. Their directory entries are in RAM, so stat(2) on them does not block.
    paths: LruCache<PathBuf, FileVersion>,
    /// Sum of the lengths of `files`.
    bytes: u64,
    swept: Instant,
}

#[derive(Debug)]
struct Entry {
    file: MappedFile,
    used: Instant,
}

impl Cache {
    pub(crate) fn new(limits: CacheLimits) -> Self {
        let paths = limits.files.saturating_mul(PATHS_PER_FILE);
        Cache {
            limits,
            state: Mutex::new(State {
                files: LruCache::unbounded(),
                paths: LruCache::new(NonZeroUsize::new(paths).unwrap_or(NonZeroUsize::MIN)),
                bytes: 0,
                swept: Instant::now(),
            }),
        }
    }

    /// Blocks for a few instructions only: no system call is made, and no snapshot dropped, under this lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that `path` names now, if its snapshot is cached. It does not block on a disk.
    pub(crate) fn get(&self, path: &Path) -> Option<MappedFile> {
        if !self.state().paths.contains(path) {
            return None;
        }
        let metadata = fs::metadata(path).ok()?;
        self.find(&FileVersion::new(&metadata))
    }

    fn find(&self, version: &FileVersion) -> Option<MappedFile> {
        let mut state = self.state();
        let entry = state.files.get_mut(version)?;
        entry.used = Instant::now();
        let file = entry.file.clone();
        drop(state);
        file.is_kept().then_some(file)
    }

    /// The file that `path` names now; `None` if it cannot be mapped. It blocks on the disk.
    pub(crate) fn open(&self, path: &Path) -> io::Result<Option<MappedFile>> {
        let version = FileVersion::new(&fs::metadata(path)?);
        let file = match self.find(&version) {
            Some(file) => file,
            None => match MappedFile::open(path)? {
                Some(file) => file,
                None => return Ok(None),
            },
        };
        self.insert(path, &file);
        Ok(Some(file))
    }

    fn insert(&self, path: &Path, file: &MappedFile) {
        let most = self.limits.files.min(self.limits.descriptors);
        if most == 0 || file.len() > self.limits.bytes || !file.is_kept() {
            return;
        }
        let mut state = self.state();
        let mut removed = vec![state.remove(&file.version())];
        while state.files.len() >= most || state.bytes + file.len() > self.limits.bytes {
            removed.push(state.remove_least_used());
        }
        let (file, used) = (file.clone(), Instant::now());
        state.bytes += file.len();
        state.paths.put(path.to_path_buf(), file.version());
        state.files.put(file.version(), Entry { file, used });
        drop(state);
        // The files in `removed` are unmapped here, without the lock.
    }

    /// Removes the file that was last seen under a path, because the path is about to name another.
    pub(crate) fn forget(&self, path: &Path) {
        let mut state = self.state();
        let version = state.paths.pop(path);
        let removed = version.and_then(|version| state.remove(&version));
        drop(state);
        drop(removed);
    }

    pub(crate) fn clear(&self) {
        let mut state = self.state();
        let removed: Vec<_> = std::iter::from_fn(|| state.remove_least_used()).collect();
        state.paths.clear();
        drop(state);
        drop(removed);
    }

    /// True once in each interval: the caller then runs [`sweep`](Cache::sweep) where it may block.
    pub(crate) fn is_sweep_due(&self) -> bool {
        let mut state = self.state();
        let due = state.swept.elapsed() >= SWEEP_INTERVAL;
        if due {
            state.swept = Instant::now();
        }
        due
    }

    /// Removes files that have been idle for too long, and those that a writer has opened.
    pub(crate) fn sweep(&self) {
        let mut removed = Vec::new();
        let mut candidates = Vec::new();
        for (version, entry) in &self.state().files {
            candidates.push((*version, entry.used, entry.file.clone()));
        }
        for (version, used, file) in &candidates {
            if used.elapsed() >= self.limits.idle || !file.is_kept() {
                removed.push(self.state().remove(version));
            }
        }
    }

    /// How many files are cached, and how many bytes they have.
    pub(crate) fn size(&self) -> (usize, u64) {
        let state = self.state();
        (state.files.len(), state.bytes)
    }
}

impl State {
    fn remove(&mut self, version: &FileVersion) -> Option<MappedFile> {
        let entry = self.files.pop(version)?;
        self.bytes -= entry.file.len();
        Some(entry.file)
    }

    fn remove_least_used(&mut self) -> Option<MappedFile> {
        let (_, entry) = self.files.pop_lru()?;
        self.bytes -= entry.file.len();
        Some(entry.file)
    }
}
