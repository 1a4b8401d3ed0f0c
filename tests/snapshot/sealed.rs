//! Bytes that the kernel protects from every change are mapped; others only in `unsafe`.

use crate::sizes::assert_snapshot;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::disk::LoopFs;
use crate::support::kernel::{mapping_at, offset_of};
use crate::support::namespace::{mount, own_mounts};
use crate::support::user::{become_nobody, may_be_others};
use crate::support::{file_with, skip, temp_dir};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use stillmap::{Backing, Error, Snapshot};

const LARGE: usize = (3 << 20) + 99;

pub fn memfd(bytes: &[u8], flags: libc::c_uint) -> File {
    // SAFETY: a C string; the descriptor is new, and no other code has it.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC | flags);
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

pub fn seal(file: &File, seals: i32) {
    // SAFETY: plain numbers.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    assert_eq!(
        result,
        0,
        "F_ADD_SEALS: {}",
        std::io::Error::last_os_error()
    );
}

pub fn sealed_memfd(bytes: &[u8]) -> File {
    let file = memfd(bytes, libc::MFD_ALLOW_SEALING);
    seal(
        &file,
        libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW,
    );
    file
}

#[test]
fn a_sealed_memfd_is_mapped() {
    let bytes = pattern(1, LARGE);
    let file = sealed_memfd(&bytes);
    let snapshot = Snapshot::from_fd(&file).unwrap();
    assert_eq!(snapshot.backing(), Backing::Sealed);
    assert_snapshot(&snapshot, &bytes, "sealed");
    assert_eq!(offset_of(&file), LARGE as u64);
    assert_eq!(snapshot.as_ptr() as usize % 4096, 0);
    let area = mapping_at(snapshot.as_ptr() as usize).unwrap();
    assert!(area.name.contains("memfd:test"), "not copied: {area:?}");
    assert!(area.permissions.starts_with("r--"), "{area:?}");
    drop(file);
    assert_same(&snapshot, &bytes, "after its descriptor");
}

#[test]
fn windows_of_a_sealed_memfd() {
    let bytes = pattern(2, LARGE);
    for (at, offset, len) in [
        (0, 0, LARGE),
        (0, 4096, 2 << 20),
        (1, 4095, 2 << 20),
        (77, 1, LARGE - 78),
        (5, LARGE - 5, 0),
        (0, 100, 100),
    ] {
        let mut file = sealed_memfd(&bytes);
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        let options = Snapshot::options()
            .offset(offset as u64)
            .len(len)
            .require_mapping(len > 0);
        let snapshot = options.from_fd(&file).unwrap();
        assert_same(&snapshot, &bytes[at + offset..at + offset + len], offset);
        if len > 1 << 20 {
            assert_eq!(snapshot.backing(), Backing::Sealed, "require_mapping");
        }
        if (at + offset) % 4096 == 0 {
            assert_eq!(snapshot.as_ptr() as usize % 4096, 0);
        }
    }
}

/// Without one of the seals a process could still change the bytes.
#[test]
fn a_memfd_that_is_not_sealed_enough_is_copied() {
    let bytes = pattern(3, LARGE);
    let changed = pattern(4, 1000);
    for seals in [
        0,
        libc::F_SEAL_SHRINK | libc::F_SEAL_GROW,
        libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_FUTURE_WRITE,
        libc::F_SEAL_GROW | libc::F_SEAL_SEAL,
    ] {
        let file = memfd(&bytes, libc::MFD_ALLOW_SEALING);
        let writable = writable_mapping(&file);
        seal(&file, seals);
        let snapshot = Snapshot::from_fd(&file).unwrap();
        assert_ne!(snapshot.backing(), Backing::Sealed, "{seals:#x}");
        // SAFETY: inside the mapping, to which no reference exists.
        unsafe { std::ptr::copy(changed.as_ptr(), writable, changed.len()) };
        assert_same(&snapshot, &bytes, format_args!("seals {seals:#x}"));
        // SAFETY: ours, and not used any more.
        unsafe { libc::munmap(writable.cast(), LARGE) };
    }
    let write_only = memfd(&bytes, libc::MFD_ALLOW_SEALING);
    seal(&write_only, libc::F_SEAL_WRITE);
    let snapshot = Snapshot::from_fd(&write_only).unwrap();
    assert_ne!(snapshot.backing(), Backing::Sealed, "it can be shortened");
    write_only.set_len(0).unwrap();
    assert_same(&snapshot, &bytes, "shortened");
}

fn writable_mapping(file: &File) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, wherever the kernel likes.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            LARGE,
            protection,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    start.cast()
}

#[test]
fn a_sealed_memfd_may_still_grow() {
    let bytes = pattern(5, LARGE);
    let file = memfd(&bytes, libc::MFD_ALLOW_SEALING);
    seal(&file, libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK);
    let snapshot = Snapshot::from_fd(&file).unwrap();
    file.set_len(2 * LARGE as u64).unwrap();
    assert_same(&snapshot, &bytes, "grown");
    assert_eq!(snapshot.backing(), Backing::Sealed);
}

/// Huge pages map by their own rules; it may be read instead, but it must be right.
#[test]
fn a_sealed_memfd_of_huge_pages() {
    let Some(_pool) = crate::support::pool::HugePagePool::of(2) else {
        return;
    };
    let huge = crate::support::pool::huge_page_size();
    // SAFETY: a C string; the descriptor is new, and no other code has it.
    let file = unsafe {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | libc::MFD_HUGETLB;
        let fd = libc::memfd_create(c"huge".as_ptr(), flags);
        assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        File::from_raw_fd(fd)
    };
    file.set_len(huge as u64).unwrap();
    seal(
        &file,
        libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW,
    );
    for (offset, len) in [(0, huge), (4096, huge - 4096), (4097, 100), (1, huge - 1)] {
        let snapshot = Snapshot::options()
            .offset(offset)
            .len(len)
            .from_fd(&file)
            .unwrap();
        assert_same(&snapshot, &vec![0; len], offset);
        (&file).rewind().unwrap();
    }
}

/// For every user, and also where it is below an overlay.
#[test]
fn a_file_under_fs_verity_is_mapped() {
    scenario!(|| {
        if !own_mounts() {
            return;
        }
        // Blocks of a page: Linux before 6.3 takes no others.
        let options = ["-b", "4096", "-O", "verity"];
        let Some(fs) = LoopFs::with_options("ext4", 64 << 20, &options) else {
            return;
        };
        let readable = || std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(fs.path(), readable()).unwrap();
        let dirs = ["lower", "upper", "work", "merged"].map(|name| {
            let dir = fs.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            std::fs::set_permissions(&dir, readable()).unwrap();
            dir
        });
        let [lower, upper, work, merged] = &dirs;
        let bytes = pattern(6, LARGE);
        let file = File::open(file_with(lower, "file", &bytes)).unwrap();
        if let Err(error) = enable_verity(&file) {
            return skip(format_args!("no fs-verity: {error}"));
        }
        let (lower, upper, work) = (lower.display(), upper.display(), work.display());
        let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        mount("none", merged, Some("overlay"), 0, &options);
        if may_be_others() {
            become_nobody();
        }
        for dir in [&dirs[0], merged] {
            let snapshot = Snapshot::open(dir.join("file")).unwrap();
            assert_snapshot(&snapshot, &bytes, dir.display());
            assert_eq!(snapshot.backing(), Backing::Sealed, "{}", dir.display());
        }
        // The mounts go with the namespace.
        std::mem::forget(fs);
    })
    .succeed();
}

fn enable_verity(file: &File) -> std::io::Result<()> {
    // struct fsverity_enable_arg: version 1, SHA-256, blocks of 4096, no salt, no signature.
    let mut argument = [0u32; 32];
    argument[..3].copy_from_slice(&[1, 1, 4096]);
    const FS_IOC_ENABLE_VERITY: libc::Ioctl = libc::_IOW::<[u32; 32]>(b'f' as u32, 133);
    // SAFETY: a struct of 128 bytes, which the kernel reads.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_ENABLE_VERITY, argument.as_ptr()) };
    match result {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn unguarded_maps_the_whole_file_on_the_callers_word() {
    let dir = temp_dir();
    for size in [0, 1, 4096, 10_000, LARGE] {
        let bytes = pattern(7, size);
        let path = file_with(dir.path(), "file", &bytes);
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        // SAFETY: no process changes the file in this test.
        let snapshot = unsafe { Snapshot::map_unguarded(&file) }.unwrap();
        assert_same(&snapshot, &bytes, size);
        if size > 0 {
            assert_eq!(snapshot.backing(), Backing::Unguarded);
            assert_eq!(snapshot.as_ptr() as usize % 4096, 0);
        }
    }
    let (reader, _writer) = crate::support::pipe::pipe();
    // SAFETY: it fails.
    let error = unsafe { Snapshot::map_unguarded(&reader) }.unwrap_err();
    assert!(matches!(error, Error::NotMappable { .. }), "{error:?}");
    // SAFETY: it fails.
    let error = unsafe { Snapshot::map_unguarded(File::open("/").unwrap()) }.unwrap_err();
    assert!(matches!(error, Error::IsDirectory { .. }), "{error:?}");
}

/// What is mapped cannot show bytes past the end of the file, though its last page has some.
#[test]
fn nothing_past_the_end_is_shown() {
    let bytes = pattern(8, 4096 * 300 + 1);
    let file = memfd(&bytes, libc::MFD_ALLOW_SEALING);
    file.write_all_at(&[0xaa; 4095], bytes.len() as u64)
        .unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    seal(&file, libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK);
    assert_same(&Snapshot::from_fd(&file).unwrap(), &bytes, "to the end");
}
