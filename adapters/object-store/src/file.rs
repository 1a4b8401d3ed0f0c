//! One version of a file, mapped.

use crate::mincore::are_resident;
use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::process::geteuid;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use stillmap::{Advice, Backing, Snapshot, SnapshotOptions};

/// The largest file that is copied. The copy is complete before its first byte is returned.
const COPY_LIMIT: u64 = 64 << 20;

/// How often a file is copied that another process writes to meanwhile.
const COPY_ATTEMPTS: usize = 8;

/// Bytes in one request to read ahead: no device takes less, and the kernel cuts longer ones.
const REQUEST: usize = 128 << 10;

/// Of a run of more than `REQUESTED_WHOLE_MAX` bytes, `REQUESTED_AHEAD` are requested before the first of them is waited
/// for. Page faults alone read a page at a time after some random accesses to the file; after hits on 1,000 pages that were
/// requested, the kernel reads ahead of them, in large pages (mm/filemap.c, `mmap_miss`), also beyond the end of the run.
///
/// Milliseconds for all runs, 2 threads that share them, medians in turns:
///
/// | runs | `pread` | all requested | 4 MiB requested |
/// |---|---|---|---|
/// | 4 of 8 MiB | 99 | 64 | 93 |
/// | 4 of 16 MiB | 224 | 153 | 145 |
/// | 4 of 32 MiB | 296 | 251 | 147 |
/// | 4 of 64 MiB | 484 | 500 | 208 |
const REQUESTED_WHOLE_MAX: usize = 16 << 20;
const REQUESTED_AHEAD: usize = 4 << 20;

/// Identifies a version of a file on this machine. The ctime shows a change whose writer set the mtime back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileVersion {
    device: u64,
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl FileVersion {
    pub(crate) fn new(metadata: &Metadata) -> Self {
        FileVersion {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            ctime: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What `LocalFileSystem` makes the etag of: inode, mtime in microseconds, and size.
pub(crate) fn etag(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok();
    let since_epoch = modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let mtime = since_epoch.unwrap_or_default().as_micros();
    format!("{:x}-{mtime:x}-{:x}", metadata.ino(), metadata.len())
}

/// Opens a regular file for reading; `None` if the path names something else.
fn open_regular(path: &Path) -> io::Result<Option<File>> {
    // Opening a device may have effects.
    if !fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    let mut options = OpenOptions::new();
    // Opening a FIFO that has replaced the file must not block.
    options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32);
    let file = options.open(path)?;
    Ok(file.metadata()?.is_file().then_some(file))
}

/// An open snapshot of one version of a file. A clone is another reference to it.
#[derive(Clone, Debug)]
pub(crate) struct MappedFile {
    pub(crate) metadata: Arc<Metadata>,
    bytes: Bytes,
    snapshot: Arc<Snapshot>,
}

/// The owner of the bytes in a `Bytes`.
struct Owner(Arc<Snapshot>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl MappedFile {
    /// Maps the file that `path` names; `None` if it cannot be mapped, or is no regular file.
    pub(crate) fn open(path: &Path) -> io::Result<Option<Self>> {
        let Some(file) = open_regular(path)? else {
            return Ok(None);
        };
        // A file that can only be copied gives no snapshot here. Its ranges are read one by one.
        MappedFile::new(&file, Snapshot::options().copy_limit(0))
    }

    /// Copies a file of up to [`COPY_LIMIT`] bytes; `None` if it is larger, or was written to each time.
    pub(crate) fn copy(path: &Path) -> io::Result<Option<Self>> {
        for _ in 0..COPY_ATTEMPTS {
            let Some(file) = open_regular(path)? else {
                return Ok(None);
            };
            if file.metadata()?.len() > COPY_LIMIT {
                return Ok(None);
            }
            let copied = MappedFile::new(&file, Snapshot::options().lease(false))?;
            if copied.is_some() {
                return Ok(copied);
            }
        }
        Ok(None)
    }

    /// `None` if there is no snapshot, or if its bytes and its metadata may be of two versions.
    fn new(file: &File, options: SnapshotOptions) -> io::Result<Option<Self>> {
        let before = file.metadata()?;
        let Ok(snapshot) = options.from_fd(file) else {
            return Ok(None);
        };
        let metadata = file.metadata()?;
        let is_stable = FileVersion::new(&before) == FileVersion::new(&metadata);
        if !is_stable || metadata.len() != snapshot.len() as u64 || !snapshot.is_consistent() {
            return Ok(None);
        }
        let snapshot = Arc::new(snapshot);
        Ok(Some(MappedFile {
            metadata: Arc::new(metadata),
            bytes: Bytes::from_owner(Owner(Arc::clone(&snapshot))),
            snapshot,
        }))
    }

    pub(crate) fn version(&self) -> FileVersion {
        FileVersion::new(&self.metadata)
    }

    pub(crate) fn len(&self) -> u64 {
        self.metadata.len()
    }

    /// True if the kernel has refused every change of the file since it was opened, so that it still has these bytes.
    pub(crate) fn is_kept(&self) -> bool {
        use Backing::{Leased, ReadOnly, Sealed};
        let kept = matches!(self.snapshot.backing(), Leased | Sealed | ReadOnly);
        kept && self.snapshot.is_consistent()
    }

    /// The bytes of a range that lies inside the file.
    pub(crate) fn slice(&self, range: &Range<u64>) -> Bytes {
        self.bytes.slice(in_memory(range))
    }

    /// The ranges of which some page is not in RAM, so that touching it would read from the disk.
    pub(crate) fn cold(&self, ranges: &[Range<u64>]) -> Vec<Range<u64>> {
        let wanted: Vec<_> = ranges.iter().map(in_memory).collect();
        // mincore(2) is reliable for the owner of a file.
        let user = geteuid();
        let resident = if user.is_root() || user.as_raw() == self.metadata.uid() {
            are_resident(&self.bytes, &wanted)
        } else {
            let pages = self.snapshot.pages();
            let is_resident = |range| pages.is_resident(range).unwrap_or(false);
            wanted.into_iter().map(is_resident).collect()
        };
        let cold = ranges
            .iter()
            .zip(resident)
            .filter(|(_, resident)| !resident);
        cold.map(|(range, _)| range.clone()).collect()
    }

    /// Reads the pages of ranges into RAM and maps them. It blocks on the disk.
    pub(crate) fn populate(&self, ranges: &[Range<u64>]) -> io::Result<()> {
        let pages = self.snapshot.pages();
        let runs = runs(ranges);
        // Requests for all of them at once.
        for run in &runs {
            let requested = if run.len() <= REQUESTED_WHOLE_MAX {
                run.clone()
            } else {
                run.start..run.start + REQUESTED_AHEAD
            };
            for start in requested.clone().step_by(REQUEST) {
                pages.advise(start..requested.end.min(start + REQUEST), Advice::WillNeed)?;
            }
        }
        for run in runs {
            pages.populate(run)?;
        }
        Ok(())
    }
}

/// The same bytes in as few ranges as possible: in the order of the file, those that touch made one.
fn runs(ranges: &[Range<u64>]) -> Vec<Range<usize>> {
    let mut ranges: Vec<_> = ranges.iter().map(in_memory).collect();
    ranges.sort_by_key(|range| range.start);
    let mut runs: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match runs.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => runs.push(range),
        }
    }
    runs
}

/// A range of a file whose length fits into memory, since it is mapped.
fn in_memory(range: &Range<u64>) -> Range<usize> {
    range.start as usize..range.end as usize
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn ranges_that_touch_are_read_as_one() {
        let ranges = [40..50, 0..10, 10..30, 5..12, 60..60];
        assert_eq!(runs(&ranges), [0..30, 40..50, 60..60]);
        assert_eq!(runs(&[]), []);
    }
}
