//! One value of every type and backing that has `pages()`.

use crate::support::bytes::pattern;
use crate::support::kernel::{page_size, smaps};
use crate::support::leased::{leased, refusal};
use crate::support::pipe::{feed, pipe};
use crate::support::{file_with, skip, temp_dir};
use std::fs::File;
use std::io::{Seek, Write};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use stillmap::{
    Anonymous, Backing, Draft, Error, Exclusive, HugePages, Pages, Private, Result, Shared,
    Snapshot,
};

/// Bytes of each value: some pages, and a part of one.
pub const PAGES: usize = 24;

/// The most bytes of a file that is always read, however large a page is.
const SMALL: usize = 100_000;

/// What is done to a value of any type.
pub trait Deed {
    /// `bytes` are those of the mapping; `is_heap`: its pages are the allocator's.
    fn on(&mut self, name: &str, pages: Pages<'_>, bytes: &[u8], is_heap: bool);
}

/// Does it to one of each, with files where the build has its own.
pub fn each(deed: &mut impl Deed) {
    each_in(temp_dir().path(), deed);
}

/// A new type or backing is one line in one of these.
pub fn each_in(dir: &Path, deed: &mut impl Deed) {
    let len = (PAGES - 1) * page_size() + 123;
    let bytes = pattern(5, 4 << 20);
    let files = Files {
        dir,
        large: &file_with(dir, "large", &bytes),
        small: &file_with(dir, "small", &bytes[..len.min(SMALL)]),
        sealed: &sealed_memfd(&bytes),
        bytes: &bytes,
        len,
    };
    let mut of = Each(deed);
    memory(len, &mut of);
    snapshots(&files, &mut of);
    writable_files(&files, &mut of);
    shared(&files, &mut of);
}

/// The files behind the values.
struct Files<'a> {
    dir: &'a Path,
    large: &'a Path,
    small: &'a Path,
    sealed: &'a File,
    /// Those of `large`.
    bytes: &'a [u8],
    /// Bytes of the other values.
    len: usize,
}

fn memory<D: Deed>(len: usize, of: &mut Each<'_, D>) {
    let memory = Anonymous::options;
    of.writable("private memory", Anonymous::new(len));
    of.writable("shared memory", Anonymous::shared(len));
    of.writable(
        "small pages",
        memory().huge_pages(HugePages::Never).allocate(len),
    );
    let huge = memory().huge_pages(HugePages::Transparent);
    of.writable("huge pages", huge.allocate(len));
    of.writable("shared huge pages", huge.shared(true).allocate(5 << 20));
    of.writable("no memory", Anonymous::new(0));
}

fn snapshots<D: Deed>(files: &Files<'_>, of: &mut Each<'_, D>) {
    let (dir, large, len) = (files.dir, files.large, files.len);
    let window = |offset| Snapshot::options().offset(offset).len(len).copy_limit(0);
    match refusal(dir) {
        Some(why) => skip(format_args!("no lease here: {why}")),
        None => {
            for offset in [0, 77, page_size() as u64 + 4000] {
                let window = leased(|| window(offset).open(large));
                of.mapped("a window under a lease", Backing::Leased, Ok(window));
            }
            let overwritten = overwritten(&dir.join("overwritten"), files.bytes);
            of.is("a file that was written to", Ok(overwritten), false);
        }
    }
    // SAFETY: no other code knows the file.
    let unguarded = unsafe { Snapshot::map_unguarded(File::open(large).expect("open the file")) };
    of.mapped("an unguarded map", Backing::Unguarded, unguarded);
    of.mapped(
        "a window of a sealed memfd",
        Backing::Sealed,
        window(13).from_fd(files.sealed),
    );
    let on_disk = Snapshot::options().offset(99).lease(false).memory_limit(0);
    let on_disk = on_disk.open(large);
    let backing = on_disk.as_ref().map(Snapshot::backing);
    assert!(
        matches!(backing, Ok(Backing::Cloned | Backing::Disk)),
        "{backing:?}"
    );
    of.is("a clone, or a copy on the disk", on_disk, false);
    of.mapped(
        "a long stream",
        Backing::Memory,
        Snapshot::from_fd(stream(files.bytes)),
    );
    let frozen = Anonymous::new(len).and_then(Anonymous::freeze);
    of.mapped("frozen memory", Backing::Memory, frozen);
    of.heap("a small file", stillmap::Snapshot::open(files.small));
    of.heap(
        "a file of /proc",
        stillmap::Snapshot::open("/proc/self/status"),
    );
    of.heap("no file", stillmap::Snapshot::open("/dev/null"));
}

fn writable_files<D: Deed>(files: &Files<'_>, of: &mut Each<'_, D>) {
    let (dir, len) = (files.dir, files.len);
    let at = |name: &str| dir.join(name);
    of.heap("a small file to change", Private::open(files.small));
    of.writable("a large file to change", Private::open(files.large));
    of.writable("a sealed memfd to change", Private::from_fd(files.sealed));

    of.writable("a draft in memory", Draft::create(at("new"), len));
    of.writable(
        "a sparse draft",
        Draft::options().sparse(true).create(at("new"), len),
    );
    let on_disk = Draft::options().memory_limit(0).create(at("new"), len);
    match on_disk {
        Err(Error::TooLarge { .. }) => skip("no drafts in their files here"),
        draft => of.writable("a draft in its file", draft),
    }
    of.writable("a draft for a device", Draft::create("/dev/null", len));

    match exclusive(&file_with(dir, "edited", &files.bytes[..len])) {
        Err(Error::Unprotectable { why, .. }) => skip(format_args!("no editing here: {why}")),
        file => of.writable("a file to edit", file),
    }
}

fn shared<D: Deed>(files: &Files<'_>, of: &mut Each<'_, D>) {
    let (bytes, len) = (files.bytes, files.len);
    type Bytes = Shared<[AtomicU8]>;
    of.atomics("shared atomics", Bytes::with_len(len));
    of.atomics("a shared memfd", Bytes::memfd_slice("memfd", len));
    of.atomics(
        "a shared file",
        Bytes::create_slice(files.dir.join("shared"), len),
    );
    let received = Bytes::from_fd_slice(memfd(&bytes[..len]));
    of.atomics("a received memfd", received);
    of.numbers(
        "shared numbers",
        Shared::<[AtomicU64]>::memfd_slice("memfd", len / 8),
    );
}

/// `pages()` of each type.
pub trait HasPages {
    fn all_pages(&self) -> Pages<'_>;
}

macro_rules! has_pages {
    ($($name:ty),*) => {
        $(impl HasPages for $name {
            fn all_pages(&self) -> Pages<'_> {
                self.pages()
            }
        })*
    };
}

has_pages!(Anonymous, Draft, Exclusive, Private, Snapshot);

struct Each<'a, D>(&'a mut D);

impl<D: Deed> Each<'_, D> {
    fn is<M: HasPages + Deref<Target = [u8]>>(&mut self, name: &str, value: Result<M>, heap: bool) {
        let value = value.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        self.0.on(name, value.all_pages(), &value, heap);
    }

    fn heap<M: HasPages + Deref<Target = [u8]>>(&mut self, name: &str, value: Result<M>) {
        self.is(name, value, true);
    }

    fn mapped(&mut self, name: &str, backing: Backing, value: Result<Snapshot>) {
        let found = value.as_ref().ok().map(Snapshot::backing);
        assert_eq!(found, Some(backing), "{name}: {value:?}");
        self.is(name, value, false);
    }

    /// Some pages are stored to and the others not touched.
    fn writable<M: HasPages + DerefMut<Target = [u8]>>(&mut self, name: &str, value: Result<M>) {
        let value = value.map(|mut value| {
            value
                .iter_mut()
                .skip(1)
                .step_by(3 * page_size())
                .for_each(|byte| *byte = 7);
            value
        });
        self.is(name, value, false);
    }

    fn atomics(&mut self, name: &str, value: Result<Shared<[AtomicU8]>>) {
        let value = value.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        value
            .iter()
            .step_by(3 * page_size())
            .for_each(|byte| byte.store(7, Ordering::Relaxed));
        // SAFETY: the same layout; no code stores to it from here on.
        let bytes = unsafe { std::slice::from_raw_parts(value.as_ptr().cast(), value.len()) };
        self.0.on(name, value.pages(), bytes, false);
    }

    fn numbers(&mut self, name: &str, value: Result<Shared<[AtomicU64]>>) {
        let value = value.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        // SAFETY: as above.
        let bytes = unsafe { std::slice::from_raw_parts(value.as_ptr().cast(), 8 * value.len()) };
        self.0.on(name, value.pages(), bytes, false);
    }
}

/// How large the pages under these bytes are.
pub fn page_size_of(bytes: &[u8]) -> usize {
    let start = bytes.as_ptr() as usize;
    if bytes.is_empty() {
        page_size()
    } else {
        smaps(start..start + 1, "KernelPageSize")
    }
}

/// Was leased until a writer came: the copying thread has replaced the pages.
fn overwritten(path: &Path, bytes: &[u8]) -> Snapshot {
    std::fs::write(path, bytes).expect("write the file");
    let snapshot = leased(|| stillmap::Snapshot::open(path));
    // Returns when the bytes are elsewhere.
    std::fs::write(path, "something else").expect("write the file");
    snapshot
}

/// The tests beside this one start processes, which have every file open for a moment.
pub fn exclusive(path: &Path) -> Result<Exclusive> {
    loop {
        match Exclusive::open(path) {
            Err(Error::Busy { .. }) => {}
            other => return other,
        }
    }
}

/// Never changes again.
fn sealed_memfd(bytes: &[u8]) -> File {
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    let file = memfd(bytes);
    // SAFETY: takes numbers.
    let sealed = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    assert_eq!(sealed, 0);
    file
}

/// Any process that has it open may shorten it.
fn memfd(bytes: &[u8]) -> File {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"memfd".as_ptr(), libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: new, and no other code has it.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).expect("fill the memfd");
    file.rewind().expect("rewind the memfd");
    file
}

/// A pipe that gives these bytes.
fn stream(bytes: &[u8]) -> OwnedFd {
    let (reader, writer) = pipe();
    feed(writer, bytes.to_vec());
    reader
}
