//! `create`: zeros, the whole file, one file for all, a full disk.

use super::*;

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_signal() {
    scenario!(|| {
        let dir = temp_dir();
        let there = support::file_with(dir.path(), "there", &[7; 100]);
        let most = 2 * kernel::page_size();
        kernel::limit(libc::RLIMIT_FSIZE, most as u64);
        let create = |path: &Path, len| Shared::<[AtomicU8]>::create_slice(path, len).map(drop);
        for refused in [
            create(&dir.path().join("new"), most + 1),
            create(&there, most + 1),
            Shared::<[AtomicU8]>::with_len(most + 1).map(drop),
            Shared::<[AtomicU8]>::memfd_slice("test", most + 1).map(drop),
            Anonymous::shared(most + 1).map(drop),
            Anonymous::shared(most).unwrap().resize(most + 1),
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EFBIG), "{refused}");
            assert!(refused.to_string().contains("ulimit -f"), "{refused}");
        }
        assert_eq!(std::fs::read(&there).unwrap(), [7; 100]);
        assert_eq!(std::fs::metadata(&there).unwrap().blocks(), 8);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        create(&there, most).unwrap();
    })
    .succeed();
}

stillmap::shareable! {
    /// Aligned to more than a page.
    #[repr(align(1048576))]
    struct Overaligned {
        bytes: [AtomicU8; 1 << 20],
    }
}

/// Before: the new file stayed, and the other one was longer and had taken space.
#[test]
fn a_file_that_cannot_be_mapped_is_not_made_or_made_longer() {
    scenario!(|| {
        let dir = temp_dir();
        let there = support::file_with(dir.path(), "there", &[7; 100]);
        let new = dir.path().join("new");
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
        let used = pages * stillmap::page::size() as u64;
        let before = kernel::limit(libc::RLIMIT_AS, used + (32 << 20));
        let refused = [&new, &there].map(|path| {
            let created = Shared::<[AtomicU8]>::create_slice(path, 64 << 20);
            created.map(drop).unwrap_err().raw_os_error()
        });
        kernel::limit(libc::RLIMIT_AS, before);
        assert_eq!(refused, [Some(libc::ENOMEM); 2]);
        let overaligned = Shared::<Overaligned>::create(&new).map(drop);
        assert!(matches!(overaligned, Err(Error::Misaligned { .. })));
        assert!(!new.exists());
        assert_eq!(std::fs::read(&there).unwrap(), [7; 100]);
        assert_eq!(std::fs::metadata(&there).unwrap().blocks(), 8);
    })
    .succeed();
}

/// Before: the new file stayed, with its huge page, and the memfd was longer.
#[test]
fn a_file_that_is_never_mapped_is_not_made_or_made_longer() {
    let sealed = sealed_memfd();
    let by_name = |directory| format!("/proc/{directory}/fd/{}", sealed.as_raw_fd());
    for path in ["self", "thread-self"].map(by_name) {
        let error = Shared::<[AtomicU8]>::create_slice(&path, 10_000).map(drop);
        assert!(matches!(error, Err(Error::NotMappable { .. })), "{error:?}");
        assert_eq!(sealed.metadata().unwrap().len(), 100, "{path}");
    }
    let Some(disk) = LoopFs::new("hugetlbfs", 0) else {
        return;
    };
    let Some(_pool) = HugePagePool::of(1) else {
        return;
    };
    let error = Shared::<AtomicU64>::create(disk.path().join("new")).map(drop);
    assert!(matches!(error, Err(Error::NotMappable { .. })), "{error:?}");
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 0);
    assert_eq!(HugePagePool::free(), 1);
}

/// A memfd of 100 bytes that no process may write to any more.
fn sealed_memfd() -> File {
    // SAFETY: a C string.
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel just returned it.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(100).unwrap();
    // SAFETY: takes an integer.
    let sealed = unsafe { libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_FUTURE_WRITE) };
    assert_eq!(sealed, 0, "{}", std::io::Error::last_os_error());
    file
}

#[test]
fn create_extends_with_zeros_and_never_shortens() {
    let dir = temp_dir();
    let path = support::file_with(dir.path(), "file", &[7; 5000]);
    let shared = Shared::<[AtomicU8]>::create_slice(&path, 100).unwrap();
    assert_eq!(bytes(&shared), [7; 100]);
    assert_eq!(std::fs::read(&path).unwrap(), [7; 5000]);
    let shared = Shared::<[AtomicU8]>::create_slice(&path, 9000).unwrap();
    assert_eq!(bytes(&shared), [vec![7; 5000], vec![0; 4000]].concat());
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 9000);
}

#[test]
fn create_allocates_the_whole_file() {
    let dir = support::temp_dir_in(env!("CARGO_TARGET_TMPDIR").as_ref());
    let (new, holes) = (dir.path().join("new"), dir.path().join("holes"));
    File::create(&holes).unwrap().set_len(2 << 20).unwrap();
    for path in [new, holes] {
        let shared = Shared::<[AtomicU8]>::create_slice(&path, 1 << 20).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.blocks() * 512 >= 1 << 20, "{}", path.display());
        assert_eq!(bytes(&shared), vec![0; 1 << 20]);
    }
}

/// Cases "shared memory has to grow" and "a shared file for several users, whatever the umask is": by the file.
#[test]
fn a_file_grows_and_is_opened_to_all_while_it_is_mapped() {
    scenario!(|| {
        let dir = temp_dir();
        // SAFETY: sets the umask of this process.
        unsafe { libc::umask(0o077) };
        let path = dir.path().join("file");
        let first = Shared::<[AtomicU8]>::create_slice(&path, 100).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        first[99].store(7, Ordering::Relaxed);
        let larger = Shared::<[AtomicU8]>::create_slice(&path, 100_000).unwrap();
        assert_eq!(larger[99].swap(8, Ordering::Relaxed), 7);
        assert_eq!(first[99].load(Ordering::Relaxed), 8);
        let peer = Shared::<[AtomicU8]>::open_slice(&path).unwrap();
        larger[99_999].store(9, Ordering::Relaxed);
        assert_eq!(
            (peer.len(), peer[99_999].load(Ordering::Relaxed)),
            (100_000, 9)
        );
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o666);
    })
    .succeed();
}

#[test]
fn create_makes_files_as_everybody_does() {
    scenario!(|| {
        let dir = temp_dir();
        // SAFETY: sets the umask of this process.
        unsafe { libc::umask(0o027) };
        let path = dir.path().join("file");
        drop(Shared::<AtomicU8>::create(&path).unwrap());
        drop(File::create(dir.path().join("oracle")).unwrap());
        let mode = |name: &str| {
            let meta = std::fs::metadata(dir.path().join(name)).unwrap();
            meta.permissions().mode()
        };
        assert_eq!(mode("file"), mode("oracle"));
        // By a link, to nothing yet; and from the current directory.
        std::os::unix::fs::symlink("target", dir.path().join("link")).unwrap();
        drop(Shared::<AtomicU64>::create(dir.path().join("link")).unwrap());
        assert_eq!(
            std::fs::metadata(dir.path().join("target")).unwrap().len(),
            8
        );
        std::os::unix::fs::symlink("circle", dir.path().join("circle")).unwrap();
        let circle = Shared::<AtomicU64>::create(dir.path().join("circle"));
        assert_eq!(circle.unwrap_err().raw_os_error(), Some(libc::ELOOP));
        std::env::set_current_dir(dir.path()).unwrap();
        drop(Shared::<AtomicU64>::create("here").unwrap());
        let names: BTreeSet<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let expected = ["circle", "file", "here", "link", "oracle", "target"];
        assert_eq!(names, expected.map(String::from).into());
    })
    .succeed();
}

#[test]
fn all_who_create_at_once_get_one_file() {
    scenario!(|| {
        let dir = temp_dir();
        for round in 0..100 {
            let path = dir.path().join(round.to_string());
            let (start, hold) = pipe();
            fork::scope(|s| {
                for child in 0..6_usize {
                    let (path, start) = (&path, &start);
                    s.spawn(move || {
                        let start = File::from(start.try_clone().unwrap());
                        (&start).read_exact(&mut [0]).unwrap();
                        let len = 1000 * (1 + child % 3);
                        let shared = Shared::<[AtomicU64]>::create_slice(path, len).unwrap();
                        shared[999].fetch_add(1, Ordering::Relaxed);
                    })
                    .unwrap();
                }
                File::from(hold).write_all(&[0; 6]).unwrap();
            })
            .unwrap();
            let shared = Shared::<[AtomicU64]>::open_slice(&path).unwrap();
            assert_eq!(shared.len(), 3000);
            assert_eq!(shared[999].load(Ordering::Relaxed), 6, "round {round}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 100);
    })
    .succeed();
}

#[test]
fn a_full_disk_is_an_error_and_leaves_nothing() {
    if !kernel::may_write(400 << 20) {
        return;
    }
    for kind in ["tmpfs", "ext4", "xfs", "btrfs"] {
        let Some(disk) = LoopFs::new(kind, 16 * kernel::page_size() as u64) else {
            continue;
        };
        let before = std::fs::read_dir(disk.path()).unwrap().count();
        let path = disk.path().join("new");
        let full = Shared::<[AtomicU8]>::create_slice(&path, 400 << 20).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{kind}: {full}");
        assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), before);
        // One that is there keeps its length and its bytes.
        std::fs::write(&path, [7; 1000]).unwrap();
        let full = Shared::<[AtomicU8]>::create_slice(&path, 400 << 20).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{kind}: {full}");
        assert_eq!(std::fs::read(&path).unwrap(), [7; 1000], "{kind}");
        // A file for which there is space can be created, and written to its end.
        let small = disk.path().join("small");
        let shared = Shared::<[AtomicU8]>::create_slice(&small, 16 << 10).unwrap();
        shared.write_at(0, &[1; 16 << 10]).unwrap();
        shared.flush().unwrap();
        assert_eq!(std::fs::read(&small).unwrap(), [1; 16 << 10], "{kind}");
    }
}

/// On a tmpfs as large as the memory, the first attempt would take all memory.
#[test]
fn what_there_is_no_room_for_is_not_begun() {
    scenario!(|| {
        let Some(disk) = LoopFs::new("tmpfs", 64 << 10) else {
            return;
        };
        refuse(libc::SYS_fallocate, libc::EIO);
        let path = disk.path().join("new");
        let full = Shared::<[AtomicU8]>::create_slice(&path, 1 << 20).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC), "{full}");
        let begun = Shared::<[AtomicU8]>::create_slice(&path, 4096).unwrap_err();
        assert_eq!(begun.raw_os_error(), Some(libc::EIO), "{begun}");
    })
    .succeed();
}

/// A file system without fallocate(2), mounted as long as the value lives.
struct Ramfs(tempfile::TempDir);

impl Ramfs {
    fn new() -> Option<Self> {
        let dir = temp_dir();
        let mounted = Command::new("mount")
            .args(["-t", "ramfs", "stillmap-test"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Ramfs(dir)),
            other => {
                support::skip(format_args!("no ramfs: {other:?}"));
                None
            }
        }
    }
}

impl Drop for Ramfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn where_nothing_can_be_allocated_new_files_are_written() {
    let Some(ramfs) = Ramfs::new() else {
        return;
    };
    let path = ramfs.0.path().join("file");
    let shared = Shared::<[AtomicU8]>::create_slice(&path, 100_000).unwrap();
    assert_eq!(bytes(&shared), vec![0; 100_000]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 100_000);
    // A file that is long enough is opened; one that is too short could not be protected from a full disk.
    drop(Shared::<[AtomicU8]>::create_slice(&path, 1000).unwrap());
    let refused = Shared::<[AtomicU8]>::create_slice(&path, 100_001).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP), "{refused}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 100_000);
}

#[test]
fn a_disk_filled_by_others_after_create_changes_nothing() {
    let Some(disk) = LoopFs::new("tmpfs", 64 << 10) else {
        return;
    };
    let shared = Shared::<[AtomicU8]>::create_slice(disk.path().join("file"), 32 << 10).unwrap();
    let filled = std::fs::write(disk.path().join("more"), [1; 64 << 10]);
    assert_eq!(filled.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    shared.write_at(0, &[1; 32 << 10]).unwrap();
    shared.check_fault().unwrap();
}

#[test]
fn the_limit_on_file_sizes_is_an_error_and_no_signal() {
    scenario!(|| {
        let dir = temp_dir();
        let (new, there) = (dir.path().join("new"), dir.path().join("there"));
        std::fs::write(&there, [7; 100]).unwrap();
        limit_file_sizes(1 << 20);
        for refused in [
            Shared::<[AtomicU8]>::create_slice(&new, 2 << 20),
            Shared::<[AtomicU8]>::create_slice(&there, 2 << 20),
            Shared::<[AtomicU8]>::memfd_slice("memfd", 2 << 20),
            Shared::<[AtomicU8]>::with_len(2 << 20),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EFBIG), "{error}");
        }
        assert!(!new.exists());
        assert_eq!(std::fs::read(&there).unwrap(), [7; 100]);
    })
    .succeed();
}

/// `Shared::create` followed links by their text, past fs.protected_symlinks, and overwrote a victim's file after 271 tries;
/// and it opened another user's file in a sticky directory, past fs.protected_regular.
#[test]
fn in_a_sticky_directory_create_refuses_what_open_refuses() {
    if !support::is_root() {
        return support::skip("only root can give files away");
    }
    let dir = temp_dir();
    let sticky = dir.path().join("sticky");
    std::fs::create_dir(&sticky).unwrap();
    std::fs::set_permissions(&sticky, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, [1; 8]).unwrap();
    let nobody = Some(65534);
    let theirs = sticky.join("theirs");
    std::fs::write(&theirs, [2; 8]).unwrap();
    std::os::unix::fs::chown(&theirs, nobody, nobody).unwrap();
    let nothing = dir.path().join("nothing");
    for (name, to) in [("link", &victim), ("dangling", &nothing)] {
        std::os::unix::fs::symlink(to, sticky.join(name)).unwrap();
        std::os::unix::fs::lchown(sticky.join(name), nobody, nobody).unwrap();
    }
    for name in ["link", "dangling", "theirs"] {
        let path = sticky.join(name);
        let found = Shared::<AtomicU64>::create(&path).map(|shared| shared.load(Ordering::Relaxed));
        // What std does, asked after it.
        let expected = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path);
        let errno = |error: &Error| error.raw_os_error();
        assert_eq!(
            found.as_ref().err().and_then(errno),
            expected.as_ref().err().and_then(|e| e.raw_os_error()),
            "{name}: {found:?}, {expected:?}"
        );
    }
    assert_eq!(std::fs::read(&victim).unwrap(), [1; 8]);
}

/// A file whose file system cannot be asked for may be one of the kernel's own, which is not a file of bytes.
#[test]
fn a_file_on_an_unknown_file_system_is_not_shared() {
    scenario!(|| {
        let dir = temp_dir();
        let path = support::file_with(dir.path(), "file", &[0; 8]);
        refuse(support::refuse::FSTATFS, libc::EIO);
        let error = Shared::<AtomicU64>::open(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    })
    .succeed();
}
