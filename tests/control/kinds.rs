//! One value of every type and backing that has a `Mapping`.

use crate::support::bytes::pattern;
use crate::support::kernel::page_size;
use crate::support::leased::{Folder, leased};
use crate::support::{file_with, temp_dir};
use folio::{Anonymous, Backing, Mapping, Shared, Snapshot};
use std::fs::File;
use std::io::{Cursor, Read, Seek, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU8;

/// Bytes of each value: some pages, and a part of one.
pub const PAGES: usize = 24;

/// What is done to a value of any type.
pub trait Deed {
    /// `bytes` are those of the mapping; `is_heap`: its pages are the allocator's.
    fn on<M: Mapping>(&mut self, name: &str, mapping: &M, bytes: &[u8], is_heap: bool);
}

/// Does it to one of each.
pub fn each(deed: &mut impl Deed) {
    let page = page_size();
    let len = (PAGES - 1) * page + 123;

    let private = Anonymous::new(len).expect("private memory");
    deed.on("private memory", &private, &private, false);
    let shared = Anonymous::shared(len).expect("shared memory");
    deed.on("shared memory", &shared, &shared, false);

    let bytes = pattern(5, 4 << 20);
    let dir = temp_dir();
    let path = file_with(dir.path(), "window", &bytes);
    if let Some(folder) = Folder::new() {
        let path = file_with(folder.path(), "window", &bytes);
        for offset in [0, 77, page as u64 + 4000] {
            let options = || Snapshot::options().offset(offset).len(len).must_map(true);
            let window = leased(|| options().open(&path));
            deed.on("a window under a lease", &window, &window, false);
        }
    }

    let file = File::open(&path).expect("open the file");
    // SAFETY: nobody else knows the file.
    let unguarded = unsafe { Snapshot::map_unguarded(&file) }.expect("map the file");
    deed.on("an unguarded map", &unguarded, &unguarded, false);

    let sealed = sealed_memfd(&bytes[..2 * len]);
    let options = || Snapshot::options().offset(13).len(len).must_map(true);
    let sealed = options().from_fd(&sealed).expect("map the memfd");
    assert_eq!(sealed.backing(), Backing::Sealed);
    deed.on("a window of a sealed memfd", &sealed, &sealed, false);

    let stream = Snapshot::from_fd(stream(&bytes)).expect("read the stream");
    deed.on("a long stream", &stream, &stream, false);

    let mut frozen = Anonymous::new(len).expect("memory");
    frozen.fill(1);
    let frozen = frozen.freeze().expect("freeze");
    deed.on("frozen memory", &frozen, &frozen, false);

    let small = file_with(dir.path(), "small", &bytes[..len]);
    let small = folio::open(small).expect("read the small file");
    deed.on("a small file", &small, &small, true);

    let memfd = Shared::<[AtomicU8]>::memfd_slice("memfd", len).expect("a memfd");
    deed.on("a shared memfd", &memfd, plain(&memfd), false);
    let memory = Shared::<[AtomicU8]>::anonymous_slice(len).expect("shared memory");
    deed.on("shared atomics", &memory, plain(&memory), false);
    let path = dir.path().join("shared");
    let file = Shared::<[AtomicU8]>::create_slice(path, len).expect("a shared file");
    deed.on("a shared file", &file, plain(&file), false);

    let nothing = Anonymous::new(0).expect("no memory");
    deed.on("no memory", &nothing, &nothing, false);
}

/// Memory that nobody writes to in these tests.
fn plain(shared: &[AtomicU8]) -> &[u8] {
    // SAFETY: the same layout; no test stores to it.
    unsafe { std::slice::from_raw_parts(shared.as_ptr().cast(), shared.len()) }
}

/// Never changes again.
pub fn sealed_memfd(bytes: &[u8]) -> File {
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"sealed".as_ptr(), libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: new, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).expect("fill the memfd");
    file.rewind().expect("rewind the memfd");
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, seals) }, 0);
    file
}

/// A pipe that gives these bytes.
fn stream(bytes: &[u8]) -> OwnedFd {
    let (reader, writer) = crate::support::pipe::pipe();
    let mut all = Vec::new();
    Cursor::new(bytes).read_to_end(&mut all).expect("copy");
    crate::support::pipe::feed(writer, all);
    reader
}
