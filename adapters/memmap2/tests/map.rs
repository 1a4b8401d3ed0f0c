//! What memmap2's own tests check, call by call.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use stillmap_memmap2::{
    Advice, Mmap, MmapMut, MmapOptions, MmapRaw, RemapOptions, UncheckedAdvice,
};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn file_of(path: &Path, len: u64) -> File {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(len).unwrap();
    file
}

fn counting(len: usize) -> Vec<u8> {
    (0..len).map(|i| i as u8).collect()
}

#[test]
fn a_file_is_mapped_writable() {
    let dir = directory();
    let file = file_of(&dir.path().join("map"), 128);
    // SAFETY: no other process has the file.
    let mut map = unsafe { MmapMut::map_mut(&file) }.unwrap();
    assert_eq!(&map[..], [0; 128]);
    map.copy_from_slice(&counting(128));
    assert_eq!(&map[..], counting(128));
    map.flush().unwrap();
    map.flush_async().unwrap();
    let mut read = Vec::new();
    (&file).read_to_end(&mut read).unwrap();
    assert_eq!(read, counting(128));
}

#[test]
fn an_empty_file_is_an_empty_aligned_map() {
    let dir = directory();
    let file = file_of(&dir.path().join("empty"), 0);
    let map = Mmap::map(&file).unwrap();
    assert!(map.is_empty() && map.as_ptr().cast::<usize>().is_aligned());
    // SAFETY: no other process has the file.
    let map = unsafe { MmapMut::map_mut(&file) }.unwrap();
    assert!(map.is_empty() && map.as_ptr().cast::<usize>().is_aligned());
}

#[test]
fn anonymous_memory() {
    let mut map = MmapMut::map_anon(128).unwrap();
    assert_eq!(&map[..], [0; 128]);
    map.copy_from_slice(&counting(128));
    assert_eq!(&map[..], counting(128));
    assert!(MmapOptions::new().map_anon().unwrap().is_empty());
    assert!(MmapMut::map_anon(isize::MAX as usize + 1).is_err());
    fn crosses<T: Send + Sync>(_: &T) {}
    crosses(&map);
    let dir = directory();
    let file = file_of(&dir.path().join("sent"), 10);
    crosses(&Mmap::map(&file).unwrap());
    crosses(&MmapRaw::map_raw(&file).unwrap());
}

#[test]
fn the_whole_file_whatever_the_offset_of_the_descriptor_and_twice() {
    let dir = directory();
    let mut file = file_of(&dir.path().join("written"), 0);
    file.write_all(b"hello").unwrap();
    for _ in 0..2 {
        assert_eq!(&Mmap::map(&file).unwrap()[..], b"hello");
    }
    assert_eq!(file.stream_position().unwrap(), 5);
}

#[test]
fn a_range_is_flushed() {
    let dir = directory();
    let file = file_of(&dir.path().join("flush"), 16384);
    // SAFETY: no other process has the file.
    let mut map = unsafe { MmapOptions::new().offset(16).len(8192).map_mut(&file) }.unwrap();
    map[10..22].copy_from_slice(b"Hello world!");
    map.flush_async_range(0, 22).unwrap();
    map.flush_range(0, 22).unwrap();
    assert!(map.flush_range(8192, 1).is_err());
}

#[test]
fn a_copy_is_not_written_to_the_file() {
    let dir = directory();
    let file = file_of(&dir.path().join("copy"), 128);
    let mut map = MmapOptions::new().map_copy(&file).unwrap();
    map[..4].copy_from_slice(b"abcd");
    map.flush().unwrap();
    assert_eq!(&map[..4], b"abcd");
    assert_eq!(&Mmap::map(&file).unwrap()[..], [0; 128]);
    assert_eq!(
        &MmapOptions::new().map_copy_read_only(&file).unwrap()[..],
        [0; 128]
    );
}

#[test]
fn windows() {
    let dir = directory();
    let offset = u64::from(u32::MAX) + 2;
    let file = file_of(&dir.path().join("sparse"), offset + 5432);
    // SAFETY: no other process has the file.
    let mut map = unsafe { MmapOptions::new().offset(offset).map_mut(&file) }.unwrap();
    assert_eq!(&map[..], vec![0; 5432]);
    map.copy_from_slice(&counting(5432));
    let read = MmapOptions::new()
        .offset(offset + 3)
        .len(100)
        .map(&file)
        .unwrap();
    assert_eq!(&read[..], &counting(5432)[3..103]);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().unwrap());
    assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
    assert!(
        MmapOptions::new()
            .offset(offset)
            .len(9999)
            .map(&file)
            .is_err()
    );
}

#[test]
fn writable_and_back() {
    let dir = directory();
    let file = file_of(&dir.path().join("protect"), 256);
    // SAFETY: no other process has the file.
    let map = unsafe { MmapMut::map_mut(&file) }.unwrap();
    let map = map.make_read_only().unwrap();
    let mut map = map.make_mut().unwrap();
    map[..4].copy_from_slice(b"abcd");
    map.flush().unwrap();
    // The file has it, and so has another map.
    assert_eq!(&Mmap::map(&file).unwrap()[..4], b"abcd");
    let copy = MmapOptions::new().map_copy(&file).unwrap();
    let mut copy = copy.make_read_only().unwrap().make_mut().unwrap();
    copy[..4].copy_from_slice(b"wxyz");
    assert_eq!(&copy[..4], b"wxyz");
    assert_eq!(&map[..4], b"abcd");
    assert_eq!(&Mmap::map(&file).unwrap()[..4], b"abcd");
    // A map of `map` is never written to the file.
    let mut other = Mmap::map(&file).unwrap().make_mut().unwrap();
    other[..4].copy_from_slice(b"wxyz");
    assert_eq!(&map[..4], b"abcd");
    let mut anonymous = MmapMut::map_anon(256).unwrap();
    anonymous[3] = 7;
    let read = anonymous.make_read_only().unwrap();
    assert_eq!(read[3], 7);
    assert_eq!(read.make_mut().unwrap()[3], 7);
    let copy = MmapOptions::new()
        .map_copy(&file)
        .unwrap()
        .make_read_only()
        .unwrap();
    assert_eq!(copy.len(), 256);
    assert!(MmapMut::map_anon(1).unwrap().make_exec().is_err());
    assert!(MmapOptions::new().map_exec(&file).is_err());
}

#[test]
fn raw_maps_are_addresses() {
    let dir = directory();
    let path = dir.path().join("raw");
    std::fs::write(&path, b"abc123").unwrap();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    for map in [
        MmapOptions::new().map_raw(&file).unwrap(),
        MmapOptions::new()
            .map_raw_read_only(File::open(&path).unwrap())
            .unwrap(),
        Mmap::map(&file).unwrap().into(),
    ] {
        assert_eq!(map.len(), 6);
        // SAFETY: six bytes are mapped, and no other process changes them.
        assert_eq!(unsafe { map.as_ptr().read() }, b'a');
    }
}

#[test]
fn advice() {
    let dir = directory();
    let file = file_of(&dir.path().join("advise"), 128);
    // SAFETY: no other process has the file.
    let map = unsafe { MmapMut::map_mut(&file) }.unwrap();
    map.advise(Advice::Random).unwrap();
    let map = Mmap::map(&file).unwrap();
    map.advise(Advice::Sequential).unwrap();
    map.advise_range(Advice::WillNeed, 20, 30).unwrap();
    assert!(map.advise_range(Advice::Normal, 100, 29).is_err());
    assert!(map.advise_range(Advice::Normal, 1, usize::MAX).is_err());
    assert!(Advice::Normal.is_supported() && UncheckedAdvice::DontNeed.is_supported());

    let page = stillmap::page::size();
    let mut map = MmapMut::map_anon(2 * page).unwrap();
    map.fill(255);
    // SAFETY: no reference to the bytes is alive.
    unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, page, page) }.unwrap();
    assert_eq!(
        [map[0], map[page - 1], map[page], map[2 * page - 1]],
        [255, 255, 0, 0]
    );
    // SAFETY: as above.
    unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) }.unwrap();
    assert_eq!(map[0], 0);
    // SAFETY: as above.
    let outside = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, page, page + 1) };
    assert!(outside.is_err());
}

/// Attack: a small private copy is in the heap, and its page was dropped with all other bytes in it.
#[test]
fn unchecked_advice_changes_no_bytes_of_others() {
    let dir = directory();
    let path = dir.path().join("private");
    std::fs::write(&path, b"private").unwrap();
    let file = File::open(&path).unwrap();
    let mut maps: Vec<MmapMut> = (0..64)
        .map(|_| MmapOptions::new().map_copy(&file).unwrap())
        .collect();
    maps.iter_mut().for_each(|map| map[0] = b'P');
    for map in &maps {
        // SAFETY: no reference to the bytes is alive.
        let done = unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) };
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
    assert!(maps.iter().all(|map| &map[..] == b"Private"));
    // What was mapped read-only never changes.
    for len in [7, 4 << 20] {
        std::fs::write(&path, vec![7; len]).unwrap();
        let map = Mmap::map(File::open(&path).unwrap()).unwrap();
        // SAFETY: as above.
        unsafe { map.unchecked_advise(UncheckedAdvice::DontNeed) }.unwrap();
        // SAFETY: as above.
        assert!(unsafe { map.unchecked_advise(UncheckedAdvice::Free) }.is_err());
        assert!(map.iter().all(|&byte| byte == 7));
    }
}

/// Kilobytes that are locked in this process.
fn locked() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmLck:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// One test, because it looks at all locked memory of the process.
#[test]
fn a_lock_is_a_state_and_ends_with_the_map() {
    let before = locked();
    let dir = directory();
    // The first is read into the heap.
    for len in [128, 2 << 20] {
        let file = file_of(&dir.path().join("lock"), len);
        let map = Mmap::map(File::open(dir.path().join("lock")).unwrap()).unwrap();
        map.lock().unwrap();
        map.lock().unwrap();
        assert!(locked() > before);
        map.unlock().unwrap();
        map.unlock().unwrap();
        assert_eq!(locked(), before);
        map.lock().unwrap();
        let moved = Box::new(map);
        drop(moved);
        assert_eq!(locked(), before);

        let raw = MmapRaw::map_raw(&file).unwrap();
        let private = MmapOptions::new().map_copy(&file).unwrap();
        let mut anonymous = MmapMut::map_anon(len as usize).unwrap();
        raw.lock().unwrap();
        private.lock().unwrap();
        anonymous.lock().unwrap();
        let three = locked();
        assert!(three > before);
        // SAFETY: anonymous memory.
        unsafe { anonymous.remap(3 << 20, RemapOptions::new().may_move(true)) }.unwrap();
        assert!(locked() > three, "the lock is of the whole map");
        drop((raw, private));
        anonymous.unlock().unwrap();
        assert_eq!(locked(), before);
    }
}

#[test]
fn remapped() {
    let dir = directory();
    let file = file_of(&dir.path().join("remap"), 2 * 4096);
    for offset in [0, 4096] {
        // SAFETY: no other process has the file.
        let mut map = unsafe { MmapOptions::new().offset(offset).len(128).map_mut(&file) }.unwrap();
        map.copy_from_slice(&counting(128));
        // SAFETY: as above.
        unsafe { map.remap(4096, RemapOptions::new().may_move(true)) }.unwrap();
        assert_eq!(map.len(), 4096);
        assert_eq!(&map[..128], counting(128));
        assert_eq!(map[128..], [0; 4096 - 128]);
        // SAFETY: as above.
        unsafe { map.remap(64, RemapOptions::new()) }.unwrap();
        assert_eq!(&map[..], counting(64));
    }
    let mut raw = MmapOptions::new().len(128).map_raw(&file).unwrap();
    // SAFETY: no address from before is used.
    unsafe { raw.remap(8192, RemapOptions::new().may_move(true)) }.unwrap();
    assert_eq!(raw.len(), 8192);
    // SAFETY: 8192 bytes are mapped, and no other process changes them.
    assert_eq!(unsafe { raw.as_ptr().wrapping_add(4096 + 9).read() }, 9);
    raw.advise_range(Advice::WillNeed, 4096, 100).unwrap();
    // SAFETY: no reference to the bytes is alive.
    unsafe { raw.unchecked_advise(UncheckedAdvice::DontNeed) }.unwrap();
    // SAFETY: as above.
    assert_eq!(unsafe { raw.as_ptr().wrapping_add(9).read() }, 9);
    let mut map = Mmap::map(&file).unwrap();
    // SAFETY: it is no mapping of `map_mut`.
    let refused = unsafe { map.remap(1, RemapOptions::new().may_move(true)) };
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::Unsupported);
    let mut memory = MmapMut::map_anon(1024).unwrap();
    // SAFETY: anonymous memory.
    assert!(unsafe { memory.remap(usize::MAX, RemapOptions::new().may_move(true)) }.is_err());
    assert_eq!(memory.len(), 1024);
}

/// Every file is safe to map: the test of memmap2 that expects a refusal for a live file is the other way round.
#[test]
fn a_live_file_is_safe_to_map() {
    let dir = directory();
    let path = dir.path().join("live");
    std::fs::write(&path, vec![7; 4 << 20]).unwrap();
    let map = Mmap::map_if_safe(File::open(&path).unwrap()).unwrap();
    let shrunk = std::thread::spawn(move || std::fs::write(path, b"short"));
    shrunk.join().unwrap().unwrap();
    assert!(map.iter().all(|&byte| byte == 7));
    let file = File::open(dir.path().join("live")).unwrap();
    let beyond = MmapOptions::new().offset(3).len(100).map_if_safe(&file);
    assert!(beyond.unwrap_err().not_safe());
    let inside = MmapOptions::new().offset(3).map_if_safe(&file).unwrap();
    assert_eq!(&inside[..], b"rt");
}

#[cfg(feature = "stable_deref_trait")]
#[test]
fn owners_of_stable_bytes() {
    fn is_stable<T: stable_deref_trait::StableDeref>(_: &T) {}
    let map = MmapMut::map_anon(128).unwrap();
    is_stable(&map);
    is_stable(&map.make_read_only().unwrap());
}

#[test]
fn a_pipe_gives_its_bytes_and_a_directory_an_error() {
    let mut child = std::process::Command::new("echo");
    let child = child
        .arg("hi")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let map = Mmap::map(child.stdout.as_ref().unwrap()).unwrap();
    assert_eq!(&map[..], b"hi\n");
    child.wait_with_output().unwrap();
    let directory = File::open("/").unwrap();
    assert_eq!(
        Mmap::map(&directory).unwrap_err().kind(),
        io::ErrorKind::IsADirectory
    );
}
