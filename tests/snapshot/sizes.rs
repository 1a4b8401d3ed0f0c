//! Regular files of every size at which something changes, on every file system that can be mounted.

use crate::support::bytes::{assert_same, pattern};
use crate::support::disk::LoopFs;
use crate::support::kernel::{may_map, may_write, offset_of, page_size};
use crate::support::{file_with, temp_dir};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU8;
use stillmap::{Backing, Error, Private, Snapshot};

/// Sizes around each power of two where a page, a heap block, a pipe, a step or a huge page may end.
pub fn interesting_sizes() -> Vec<usize> {
    let page = page_size();
    let mut sizes = vec![0, 1, 2, 63, 64, 65];
    for edge in [
        page,
        16 << 10,
        64 << 10,
        256 << 10,
        512 << 10,
        1 << 20,
        2 << 20,
    ] {
        sizes.extend([edge - 1, edge, edge + 1]);
    }
    sizes.push((5 << 20) + 12345);
    sizes.sort();
    sizes.dedup();
    sizes
}

/// What holds for every snapshot of an input that stands still.
#[track_caller]
pub fn assert_snapshot(snapshot: &Snapshot, want: &[u8], what: impl std::fmt::Display) {
    assert_snapshot_from(0, snapshot, want, what);
}

/// The same for bytes that start at `offset` of the file: their address is that offset modulo 64, copied or mapped, so that
/// a cast succeeds for both or for none. No bytes are aligned to 64. What is mapped has the place in its page that it has in
/// the file.
#[track_caller]
pub fn assert_snapshot_from(
    offset: usize,
    snapshot: &Snapshot,
    want: &[u8],
    what: impl std::fmt::Display,
) {
    assert_same(snapshot, want, &what);
    assert_same(snapshot.as_ref(), want, &what);
    assert!(snapshot.is_consistent(), "{what}: not intact");
    let start = snapshot.as_ptr() as usize;
    let offset = if want.is_empty() { 0 } else { offset };
    let unit = match snapshot.backing() {
        Backing::Memory | Backing::Disk => 64,
        _ => page_size(),
    };
    assert_eq!(start % unit, offset % unit, "{what}: alignment");
}

fn assert_all_sizes_in(dir: &Path) {
    for size in interesting_sizes() {
        let bytes = pattern(size as u64, size);
        let path = file_with(dir, "file", &bytes);
        let what = format!("{size} bytes in {}", dir.display());
        assert_snapshot(&stillmap::Snapshot::open(&path).unwrap(), &bytes, &what);
        let file = File::open(&path).unwrap();
        assert_snapshot(&Snapshot::from_fd(&file).unwrap(), &bytes, &what);
        assert_eq!(offset_of(&file), size as u64, "{what}: offset left");
        let at = size / 3;
        let windows = [
            (0, size),
            (at, size - at),
            (at, at),
            (size, 0),
            (0, size.min(1)),
        ];
        for (offset, len) in windows {
            let options = Snapshot::options().offset(offset as u64).len(len);
            let what = format!("{len} bytes from {offset} of {what}");
            let window = options.open(&path).unwrap();
            assert_snapshot_from(offset, &window, &bytes[offset..offset + len], &what);
        }
    }
}

#[test]
fn files_of_every_size() {
    assert_all_sizes_in(temp_dir().path());
}

#[test]
fn every_file_system() {
    for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay"] {
        if let Some(fs) = LoopFs::new(kind, 64 << 20) {
            assert_all_sizes_in(fs.path());
        }
    }
    let small = pattern(1, 1000);
    let large = pattern(2, 3_000_001);
    if let Some(fs) = LoopFs::squashfs(&[("small", &small), ("large", &large)]) {
        let open = |name| stillmap::Snapshot::open(fs.path().join(name)).unwrap();
        assert_snapshot(&open("small"), &small, "small on squashfs");
        assert_snapshot(&open("large"), &large, "large on squashfs");
    }
}

/// Case: a cast of a window succeeded when the window was read, and failed when it was mapped, or the other way.
#[test]
fn a_window_is_aligned_as_in_the_file_however_it_is_opened() {
    let dir = temp_dir();
    let bytes = pattern(3, (3 << 20) + 5);
    let path = file_with(dir.path(), "file", &bytes);
    let options = || {
        [
            Snapshot::options(),
            Snapshot::options().lease(false),
            Snapshot::options().memory_limit(0),
            Snapshot::options().lease(false).memory_limit(0),
        ]
    };
    for (offset, len) in [(4, 100), (68, 1 << 20), (100, 2 << 20), (4097, 2_000_000)] {
        let want = &bytes[offset..offset + len];
        let mut file = File::open(&path).unwrap();
        for options in options() {
            let options = options.len(len);
            let what = format!("{len} from {offset}, {options:?}");
            let window = options.clone().offset(offset as u64).open(&path).unwrap();
            assert_snapshot_from(offset, &window, want, &what);
            file.seek(SeekFrom::Start(offset as u64)).unwrap();
            let window = options.from_fd(&file).unwrap();
            assert_snapshot_from(offset, &window, want, what);
        }
        let options = Private::options().offset(offset as u64).len(len);
        let window = options.open(&path).unwrap();
        assert_same(&window, want, "private");
        assert_eq!(window.as_ptr().addr() % 64, offset % 64, "private");
    }
}

#[test]
fn bytes_stay_when_the_file_is_overwritten_truncated_and_removed() {
    let assert_in = |dir: &Path| {
        for size in interesting_sizes() {
            let bytes = pattern(7, size);
            let path = file_with(dir, "file", &bytes);
            let snapshot = stillmap::Snapshot::open(&path).unwrap();
            let mut file = File::options().write(true).open(&path).unwrap();
            file.write_all(&pattern(8, size)).unwrap();
            assert_same(&snapshot, &bytes, format_args!("{size} overwritten"));
            file.set_len(0).unwrap();
            assert_same(&snapshot, &bytes, format_args!("{size} truncated"));
            drop(file);
            std::fs::remove_file(&path).unwrap();
            assert_same(&snapshot, &bytes, format_args!("{size} removed"));
        }
    };
    assert_in(temp_dir().path());
    for kind in ["ext4", "xfs", "btrfs", "tmpfs", "overlay"] {
        if let Some(fs) = LoopFs::new(kind, 64 << 20) {
            assert_in(fs.path());
        }
    }
}

#[test]
fn a_snapshot_outlives_its_path_and_crosses_threads() {
    fn crosses<T: Send + Sync + 'static>(value: T) -> T {
        value
    }
    let bytes = pattern(3, 3 << 20);
    let snapshot = {
        let dir = temp_dir();
        crosses(stillmap::Snapshot::open(file_with(dir.path(), "file", &bytes)).unwrap())
    };
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| assert_same(&snapshot, &bytes, "in a thread"));
        }
    });
    let text = format!("{snapshot:?}");
    assert!(text.len() < 200, "Debug says how much, not what: {text}");
}

/// As `Vec<u8>` and `memmap2::Mmap`: a parser that panics can be caught. It did not compile.
#[test]
fn every_type_crosses_threads_and_unwinding() {
    fn crosses<T: Send + Sync + UnwindSafe + RefUnwindSafe + 'static>() {}
    crosses::<Snapshot>();
    crosses::<Private>();
    crosses::<stillmap::Anonymous>();
    crosses::<stillmap::Draft>();
    crosses::<stillmap::Exclusive>();
    crosses::<stillmap::Live>();
    crosses::<stillmap::Shared<[AtomicU8]>>();
}

/// Where in a file which bytes are.
type Islands = Vec<(u64, Vec<u8>)>;

/// 5 GiB with a few islands of data; `None` where the file system has no room for holes.
fn sparse(dir: &Path) -> Option<(PathBuf, Islands)> {
    let size: u64 = 5 << 30;
    if !may_write(size) {
        return None;
    }
    let path = dir.join("sparse");
    let mut file = File::create(&path).unwrap();
    if let Err(error) = file.set_len(size) {
        crate::support::skip(format_args!("a sparse file of 5 GiB: {error}"));
        return None;
    }
    let islands: Vec<_> = [0, (2 << 30) - 5, (4 << 30) + 123, size - 10]
        .into_iter()
        .map(|at| (at, pattern(at, 10)))
        .collect();
    for (at, bytes) in &islands {
        file.seek(SeekFrom::Start(*at)).unwrap();
        file.write_all(bytes).unwrap();
    }
    Some((path, islands))
}

#[test]
fn windows_of_a_sparse_file_of_5_gib() {
    let dir = temp_dir();
    let Some((path, islands)) = sparse(dir.path()) else {
        return;
    };
    for (at, bytes) in islands {
        for (before, len) in [(0, 10), (7, 1 << 20), (4096, 3 << 20)] {
            let offset = at.saturating_sub(before);
            let len = len.min((5 << 30) - offset) as usize;
            let window = Snapshot::options().offset(offset).len(len);
            let window = window.open(&path).unwrap();
            let mut want = vec![0; len];
            let from = (at - offset) as usize;
            let n = bytes.len().min(len - from);
            want[from..from + n].copy_from_slice(&bytes[..n]);
            assert_same(&window, &want, format_args!("{len} bytes from {offset}"));
        }
    }
    let past = Snapshot::options()
        .offset((5 << 30) - 10)
        .len(11)
        .open(&path);
    assert!(matches!(past, Err(Error::OutOfBounds { .. })), "{past:?}");
}

/// Mapped, or copied to disk, or refused: but never copied into memory.
#[test]
fn a_sparse_file_of_5_gib_beyond_the_memory_limit() {
    if !may_map(5 << 30) {
        return;
    }
    let dir = temp_dir();
    let Some((path, islands)) = sparse(dir.path()) else {
        return;
    };
    match Snapshot::options().memory_limit(64 << 20).open(&path) {
        Ok(snapshot) => {
            assert_ne!(snapshot.backing(), Backing::Memory);
            assert_eq!(snapshot.len() as u64, 5 << 30);
            for (at, bytes) in islands {
                assert_same(&snapshot[at as usize..][..10], &bytes, at);
            }
            assert!(snapshot[1 << 30..(1 << 30) + 4096].iter().all(|&b| b == 0));
        }
        Err(error) => assert!(
            matches!(error, Error::TooLarge { limit, .. } if limit == 64 << 20),
            "{error:?}"
        ),
    }
}

/// Offsets are 64-bit: nothing wraps around next to the largest one.
#[test]
fn windows_next_to_the_largest_offset() {
    use crate::sealed::{memfd, seal};
    let most = i64::MAX as u64;
    if !may_write(most) {
        return;
    }
    for sealed in [false, true] {
        let file = memfd(b"", libc::MFD_ALLOW_SEALING);
        file.set_len(most).unwrap();
        if sealed {
            seal(&file, libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK);
        }
        let open = |offset: u64, len: usize| {
            (&file).rewind().unwrap();
            Snapshot::options().offset(offset).len(len).from_fd(&file)
        };
        for (before_end, len) in [(10, 10), (4095, 4095), (5000, 100), (4 << 20, 3 << 20)] {
            let window = open(most - before_end, len).unwrap();
            assert_same(&window, &vec![0; len], before_end);
        }
        for (offset, len) in [
            (most, 1),
            (most - 1, 2),
            (most + 1, 0),
            (u64::MAX, usize::MAX),
        ] {
            let error = open(offset, len).unwrap_err();
            assert!(matches!(error, Error::OutOfBounds { .. }), "{error:?}");
        }
    }
}
