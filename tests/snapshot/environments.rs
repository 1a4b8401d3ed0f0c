//! Kernels, containers and limits under which a snapshot uses another strategy, or fails with the reason.

use crate::sealed::sealed_memfd;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{argument, scenario};
use crate::support::control_group::{ControlGroup, join};
use crate::support::disk::LoopFs;
use crate::support::kernel::{limit, offset_of, status};
use crate::support::namespace::{bind, hide, mount, own_mounts};
use crate::support::pipe::{feed, pipe};
use crate::support::refuse::refuse;
use crate::support::user::{become_nobody, may_be_others};
use crate::support::{file_with, skip, temp_dir};
use std::ffi::CString;
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use stillmap::{Backing, Draft, Error, Private, Reason, Snapshot};

const LARGE: usize = (3 << 20) + 99;

/// Case: seccomp filters of old container engines answer calls that they do not know with EPERM. A large file is leased
/// nevertheless. Before: where memfd_create(2) was refused, it was copied, since it "could not be opened again".
#[test]
fn statx_and_others_are_refused() {
    if cfg!(target_pointer_width = "32") {
        return skip("fstat(3) of the C library needs statx(2) where times have 32 bits");
    }
    scenario!(|| {
        for call in [
            libc::SYS_statx,
            libc::SYS_copy_file_range,
            libc::SYS_preadv2,
            libc::SYS_memfd_create,
        ] {
            refuse(call, libc::EPERM);
        }
        let dir = temp_dir();
        for size in [0, 5000, LARGE] {
            let bytes = pattern(1, size);
            let path = file_with(dir.path(), "file", &bytes);
            let disk = Snapshot::options().lease(false).memory_limit(0);
            let snapshot = stillmap::Snapshot::open(&path).unwrap();
            assert_same(&snapshot, &bytes, "open");
            let wrong = [Some(Reason::NotReopened), Some(Reason::Refused)];
            assert!(!wrong.contains(&snapshot.reason()));
            assert_same(&disk.open(&path).unwrap(), &bytes, "to disk");
            assert_same(&Private::open(&path).unwrap(), &bytes, "private");
        }
    })
    .succeed();
}

/// Case: a chroot or namespace without /proc.
#[test]
fn without_proc() {
    scenario!(|| {
        if !own_mounts() {
            return;
        }
        hide("/proc");
        let dir = temp_dir();
        for size in [0, 5000, LARGE] {
            let bytes = pattern(1, size);
            let path = file_with(dir.path(), "file", &bytes);
            let options = Snapshot::options();
            let disk = options.clone().lease(false).memory_limit(0);
            assert_same(&stillmap::Snapshot::open(&path).unwrap(), &bytes, "open");
            assert_same(&disk.open(&path).unwrap(), &bytes, "to disk");
            let file = File::open(&path).unwrap();
            assert_same(&options.from_file(&file).unwrap(), &bytes, "file");
            assert_same(&options.from_fd(&file).unwrap(), &bytes, "fd");
            assert_same(&Private::open(&path).unwrap(), &bytes, "private");
            assert_same(&Snapshot::try_from(file).unwrap(), &bytes, "given up");
        }
        // The mappings of the process cannot be counted. Before: after 256 of them there were too few left.
        let sealed = sealed_memfd(&pattern(1, LARGE));
        for n in 0..300 {
            let mapped = Snapshot::from_file(&sealed).unwrap();
            assert_eq!(mapped.backing(), Backing::Sealed, "{n}");
        }
        // Where nothing forbids a mapping, that is not the reason.
        let path = file_with(dir.path(), "file", &pattern(1, LARGE));
        let reason = Snapshot::open(&path).unwrap().reason();
        assert_ne!(reason, Some(Reason::Mappings));
    })
    .succeed();
}

/// Case: a scanner meets a FIFO without a writer.
#[test]
fn a_fifo_without_a_writer_is_not_waited_for_by_who_set_a_bound() {
    let dir = temp_dir();
    let fifo = dir.path().join("fifo");
    let name = CString::new(fifo.as_os_str().as_bytes()).unwrap();
    // SAFETY: a C string.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let options = Snapshot::options;
    for bounded in [
        options().require_mapping(true),
        options().size_limit(1 << 20),
        options().len(5),
        options().copy_limit(1 << 20),
    ] {
        let error = bounded.open(&fifo).unwrap_err();
        assert!(
            matches!(
                error,
                Error::NotMappable {
                    reason: Some(Reason::NoWriter | Reason::Stream),
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(error.to_string().contains("fifo"), "{error}");
    }
    let error = Private::options().size_limit(9).open(&fifo).unwrap_err();
    assert!(matches!(error, Error::NotMappable { .. }), "{error:?}");
    // With a writer it is read as any other, and one that only opens and closes it leaves nothing.
    for bytes in [pattern(1, 300_000), vec![]] {
        let wanted = bytes.clone();
        // Read and write: opens at once, and is the writer that is there when the FIFO is opened.
        let holder = File::options().read(true).write(true).open(&fifo).unwrap();
        let writer = File::options().write(true).open(&fifo).unwrap();
        let writing = std::thread::spawn(move || {
            let mut writer = writer;
            writer.write_all(&bytes).unwrap();
            drop((writer, holder));
        });
        match options().size_limit(1 << 20).open(&fifo) {
            Ok(read) => assert_same(&read, &wanted, "with a writer"),
            // The writer may have come and gone before.
            Err(error) => assert!(wanted.is_empty(), "{error:?}"),
        }
        writing.join().unwrap();
    }
}

#[test]
fn a_reason_for_each_input() {
    let dir = temp_dir();
    let bytes = pattern(2, LARGE);
    let path = file_with(dir.path(), "file", &bytes);
    let small = file_with(dir.path(), "small", b"small");
    let reason = |snapshot: stillmap::Result<Snapshot>| snapshot.unwrap().reason();
    assert_eq!(
        reason(stillmap::Snapshot::open(&small)),
        Some(Reason::Small)
    );
    assert_eq!(
        reason(stillmap::Snapshot::open("/dev/null")),
        Some(Reason::Stream)
    );
    assert_eq!(
        reason(stillmap::Snapshot::open("/proc/version")),
        Some(Reason::Stream)
    );
    let without = Snapshot::options().lease(false);
    assert_eq!(reason(without.open(&path)), Some(Reason::NotAsked));
    let error = without.clone().require_mapping(true).open(&path);
    match error {
        Err(Error::NotMappable { reason, .. }) => assert_eq!(reason, Some(Reason::NotAsked)),
        // A clone.
        cloned => assert_eq!(cloned.unwrap().backing(), Backing::Cloned),
    }
    // The copy limit counts where nothing can be mapped.
    let error = without.clone().copy_limit(LARGE as u64 - 1).open(&path);
    assert!(!matches!(error, Ok(ref copy) if copy.backing() == Backing::Memory));
    let copy = without.copy_limit(LARGE as u64).open(&path);
    assert_same(&copy.unwrap(), &bytes, "at the limit");
    let (reader, writer) = pipe();
    let writing = feed(writer, bytes.clone());
    let error = Snapshot::options().copy_limit(1 << 20).from_fd(&reader);
    assert!(matches!(
        error,
        Err(Error::NotMappable {
            reason: Some(Reason::Stream),
            ..
        })
    ));
    drop(reader);
    writing.join().unwrap();
    // Where files are leased at all, a writer is the reason; elsewhere the file system is.
    let leased = stillmap::Snapshot::open(&path).unwrap();
    if leased.backing() == Backing::Leased {
        assert_eq!(leased.reason(), None);
        let _writer = File::options().append(true).open(&path).unwrap();
        assert_eq!(leased.reason(), Some(Reason::Written));
        assert_eq!(
            reason(stillmap::Snapshot::open(&path)),
            Some(Reason::OpenForWriting)
        );
    }
}

/// Cases: a tmpfs, an overlay with an upper layer and a file of another owner are copied, and the reason says so.
#[test]
fn a_reason_for_each_place() {
    for kind in ["tmpfs", "overlay"] {
        if let Some(system) = LoopFs::new(kind, 64 << 20) {
            let path = file_with(system.path(), "file", &pattern(3, LARGE));
            let snapshot = stillmap::Snapshot::open(&path).unwrap();
            assert_eq!(snapshot.reason(), Some(Reason::FileSystem), "{kind}");
            assert_eq!(snapshot.backing(), Backing::Memory, "{kind}");
        }
    }
    let Some(ext4) = LoopFs::new("ext4", 64 << 20).filter(|_| may_be_others()) else {
        return;
    };
    let path = file_with(ext4.path(), "file", &pattern(3, LARGE));
    scenario!(|| {
        become_nobody();
        let snapshot = stillmap::Snapshot::open(argument("PATH")).unwrap();
        assert_eq!(snapshot.reason(), Some(Reason::OtherOwner));
    })
    .argument("PATH", &path)
    .succeed();
}

/// The drivers of squashfs, erofs and iso9660 have no code that writes: mapped without a lease, for any user.
#[test]
fn a_file_system_that_is_never_written_is_mapped() {
    let mut child = scenario!(|| {
        if !own_mounts() {
            return;
        }
        let bytes = pattern(4, LARGE);
        let kind = argument("KIND").into_string().unwrap();
        let Some(system) = LoopFs::read_only(&kind, &[("file", &bytes)]) else {
            return;
        };
        if may_be_others() {
            become_nobody();
        }
        let path = system.path().join("file");
        let options = Snapshot::options().require_mapping(true);
        let snapshot = options.open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::ReadOnly);
        assert_eq!(snapshot.reason(), None);
        assert_same(&snapshot, &bytes, "snapshot");
        let mut private = Private::open(&path).unwrap();
        assert_eq!(private.backing(), Backing::ReadOnly);
        private.fill(0);
        assert_same(&snapshot, &bytes, "stores are private");
        // The mounts go with the namespace.
        std::mem::forget(system);
    });
    for kind in ["squashfs", "erofs", "iso9660"] {
        child.argument("KIND", kind).succeed();
    }
}

/// Attack: an overlay of two directories that can be written to, over which a squashfs was mounted afterwards. Before: the
/// names of the layers led to the squashfs, so the file was mapped as `ReadOnly`, and a byte changed.
#[test]
fn an_overlay_is_not_known_to_be_never_written() {
    scenario!(|| {
        if !own_mounts() {
            return;
        }
        let bytes = pattern(4, LARGE);
        let Some(squashed) = LoopFs::squashfs(&[("file", &bytes)]) else {
            return;
        };
        let dir = temp_dir();
        let parts = ["first", "second", "merged"].map(|name| {
            let dir = dir.path().join(name);
            std::fs::create_dir(&dir).unwrap();
            dir
        });
        let [first, second, merged] = &parts;
        let below = first.join("file");
        std::fs::write(&below, &bytes).unwrap();
        let below = File::options().write(true).open(below).unwrap();
        let lower = format!("lowerdir={}:{}", first.display(), second.display());
        mount("none", merged, Some("overlay"), 0, &lower);
        for layer in [first, second] {
            let from = squashed.path().to_str().unwrap();
            mount(from, layer, None, libc::MS_BIND, "");
        }
        let snapshot = Snapshot::open(merged.join("file")).unwrap();
        assert_eq!(snapshot.reason(), Some(Reason::FileSystem));
        below.write_all_at(&[!bytes[0]], 0).unwrap();
        assert_same(&snapshot, &bytes, "below");
        std::mem::forget((squashed, dir));
    })
    .succeed();
}

/// Cases: copies do not go to a tmpfs, where they take the memory that was to be saved; the error names each directory.
#[test]
fn a_copy_that_no_disk_takes() {
    scenario!(|| {
        if !own_mounts() {
            return;
        }
        let dir = temp_dir();
        hide("/var/tmp");
        hide(dir.path());
        std::env::set_current_dir("/proc").unwrap();
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("TMPDIR", dir.path()) };
        let bytes = pattern(5, LARGE);
        let path = file_with(dir.path(), "file", &bytes);
        let whole = stillmap::Snapshot::open(&path).unwrap();
        assert_same(&whole, &bytes, "memory suffices");
        for result in [
            Snapshot::options().memory_limit(1000).open(&path).map(drop),
            Private::options().memory_limit(1000).open(&path).map(drop),
        ] {
            let error = result.unwrap_err();
            let Error::NoRoom { tried, len, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(*len, LARGE as u64);
            assert!(tried.directories().any(|tried| tried == dir.path()));
            assert!(error.to_string().contains("/var/tmp"), "{error}");
        }
        // Case: an overlay whose upper layer is a tmpfs, as the root of a system that was started from a read-only disk. Before:
        // the copy was there.
        let layers = ["lower", "upper", "work"].map(|name| dir.path().join(name));
        layers
            .iter()
            .for_each(|layer| std::fs::create_dir(layer).unwrap());
        let [lower, upper, work] = layers.each_ref().map(|layer| layer.display());
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        mount("none", "/var/tmp".as_ref(), Some("overlay"), 0, &layers);
        let error = Snapshot::options().memory_limit(1000).open(&path);
        assert!(matches!(error, Err(Error::NoRoom { .. })), "{error:?}");
        // Case: ramfs. Before: the copy was there.
        mount("none", "/var/tmp".as_ref(), Some("ramfs"), 0, "");
        let error = Snapshot::options().memory_limit(1000).open(&path);
        assert!(matches!(error, Err(Error::NoRoom { .. })), "{error:?}");
        // Case: a disk that is too small is left as it was.
        let Some(disk) = LoopFs::new("ext4", 8 << 20) else {
            return;
        };
        bind(disk.path(), "/var/tmp");
        let large = file_with(dir.path(), "large", &pattern(6, 16 << 20));
        let free = || free(disk.path());
        let before = free();
        let error = Snapshot::options()
            .memory_limit(0)
            .open(&large)
            .unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error:?}");
        assert_eq!(free(), before);
        let copy = Snapshot::options().memory_limit(0).open(&path).unwrap();
        assert_eq!(copy.backing(), Backing::Disk);
        assert_same(&copy, &bytes, "there is room for this one");
    })
    .succeed();
}

fn free(path: &Path) -> u64 {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: zero bits are a valid struct.
    let mut stat: libc::statvfs64 = unsafe { std::mem::zeroed() };
    // SAFETY: a C string; writes one struct.
    assert_eq!(unsafe { libc::statvfs64(path.as_ptr(), &mut stat) }, 0);
    stat.f_bfree
}

/// Case: `write_all`, then a map of the same `&File`, as memmap2 is used: the whole file, twice.
#[test]
fn a_whole_file_wherever_its_offset_is() {
    // Alone: a child that another test starts has the file open for writing until it executes its program.
    scenario!(|| {
        let dir = temp_dir();
        for size in [0, 5000, LARGE] {
            let bytes = pattern(8, size);
            let path = dir.path().join("file");
            let mut options = File::options();
            let options = options.create(true).truncate(true).read(true).write(true);
            let mut file = options.open(&path).unwrap();
            file.write_all(&bytes).unwrap();
            for _ in 0..2 {
                assert_same(&Snapshot::from_file(&file).unwrap(), &bytes, "snapshot");
                assert_same(&Private::from_file(&file).unwrap(), &bytes, "private");
                assert_eq!(offset_of(&file), size as u64);
            }
            let window = Snapshot::options().offset(1).len(1000);
            if size > 0 {
                assert_same(&window.from_file(&file).unwrap(), &bytes[1..1001], "window");
            }
            file.rewind().unwrap();
            let given = Snapshot::try_from(file).unwrap();
            assert_same(&given, &bytes, "given up");
            // Nothing else has it open, so it can be leased as if it were opened by its path.
            let by_path = stillmap::Snapshot::open(&path).unwrap();
            assert_eq!(given.reason(), by_path.reason());
            assert_eq!(given.backing(), by_path.backing());
        }
    })
    .succeed();
}

/// Cases: a container of 256 MiB with a read-only root and tmpfs on /tmp. A file of 300 MiB is an error that says where a
/// copy was tried, and no file is left out that fits: the third of 64 MiB, while about 120 MiB are free.
#[test]
fn a_container_with_little_memory_and_no_disk() {
    let mut child = scenario!(|| {
        join(argument("GROUP"));
        if !own_mounts() {
            return;
        }
        // Not below the directories that are hidden.
        let dir = Path::new("/mnt");
        bind(Path::new(&argument("DIR")), dir);
        let read_only = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
        mount("none", dir, None, read_only, "");
        hide("/var/tmp");
        hide("/tmp");
        std::env::set_current_dir("/proc").unwrap();
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("TMPDIR", "/tmp") };
        let options = Snapshot::options().lease(false);
        for result in [
            options.open(dir.join("large")).map(drop),
            Private::open(dir.join("large")).map(drop),
        ] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::NoRoom { .. }), "{error:?}");
            assert!(error.to_string().contains("Read-only"), "{error}");
        }
        let small = dir.join("small");
        let held = [0; 3].map(|_| options.open(&small).unwrap());
        for snapshot in &held {
            assert_eq!(snapshot.backing(), Backing::Memory);
            assert!(snapshot.iter().step_by(4096).all(|&byte| byte == 0));
        }
    });
    let Some(group) = ControlGroup::with_memory(256 << 20) else {
        return;
    };
    let dir = crate::support::temp_dir_in(Path::new(env!("CARGO_TARGET_TMPDIR")));
    for (name, size) in [("large", 300 << 20), ("small", 64 << 20)] {
        let file = File::create(dir.path().join(name)).unwrap();
        file.set_len(size).unwrap();
    }
    let path = std::fs::canonicalize(dir.path()).unwrap();
    child
        .argument("GROUP", group.path())
        .argument("DIR", &path)
        .succeed();
}

/// Cases: what is kept, or read at once, is more than a container has, and each of it is small or a stream. Before: the kernel
/// ended the process.
#[test]
fn a_container_with_little_memory_for_much_that_is_small() {
    type Case = (&'static str, fn(&Path));
    const CASES: [Case; 7] = [
        ("copies of 256 KiB", |path| {
            let options = Snapshot::options().lease(false);
            let kept = [(); 600].map(|()| options.open(path).unwrap());
            assert!(kept.iter().any(|copy| copy.backing() == Backing::Disk));
            assert!(kept.iter().all(|copy| copy.len() == 256 << 10));
        }),
        ("a small file that has not changed lately", |_| {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
            let expected = std::fs::read(path).unwrap();
            let kept = (150 << 20) / expected.len();
            let kept: Vec<_> = (0..kept).map(|_| Snapshot::open(path).unwrap()).collect();
            assert!(kept.iter().all(|copy| **copy == expected));
        }),
        ("leased files that are opened for writing", |path| {
            let paths: Vec<_> = (0..500)
                .map(|n| path.with_extension(n.to_string()))
                .collect();
            let kept: Vec<_> = paths
                .iter()
                .map(|path| {
                    let file = File::create(path).unwrap();
                    file.set_len(256 << 10).unwrap();
                    drop(file);
                    Snapshot::open(path).unwrap()
                })
                .collect();
            for path in &paths {
                let mut file = File::options().write(true).open(path).unwrap();
                file.write_all(b"new").unwrap();
            }
            assert!(kept.iter().all(|copy| copy[..3] == [0; 3]));
        }),
        ("drafts of 1 MiB", |path| {
            let kept: Vec<_> = (0..150)
                .map(|n| {
                    let path = path.with_extension(n.to_string());
                    let mut draft = Draft::create(path, 1 << 20).unwrap();
                    draft.fill(1);
                    draft
                })
                .collect();
            assert!(kept.iter().all(|draft| draft.ends_with(&[1])));
        }),
        ("endless input, four at a time", |_| {
            std::thread::scope(|threads| {
                let endless = || Snapshot::open("/dev/zero").map(drop);
                for result in [(); 4].map(|()| threads.spawn(endless)) {
                    let result = result.join().unwrap();
                    assert!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
                }
            });
        }),
        ("a limit that is larger than memory", |_| {
            let limits = [
                Snapshot::options().size_limit(1 << 30),
                Snapshot::options().copy_limit(1 << 30),
            ];
            for result in limits.map(|options| options.open("/dev/zero")) {
                assert!(matches!(result, Err(Error::TooLarge { .. })), "{result:?}");
            }
        }),
        ("a stream that may go to disk", |_| {
            let options = Snapshot::options().spill(true).len(200 << 20);
            let copy = options.open("/dev/zero").unwrap();
            assert_eq!(copy.backing(), Backing::Disk);
        }),
    ];
    let mut child = scenario!(|| {
        join(argument("GROUP"));
        let (name, path) = (argument("CASE"), argument("FILE"));
        let case = CASES.iter().find(|(known, _)| name == *known).unwrap();
        case.1(Path::new(&path));
    });
    let Some(group) = ControlGroup::with_memory(96 << 20) else {
        return;
    };
    let dir = crate::support::temp_dir_in(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let path = std::fs::canonicalize(dir.path()).unwrap().join("file");
    File::create(&path).unwrap().set_len(256 << 10).unwrap();
    child
        .argument("GROUP", group.path())
        .argument("FILE", &path);
    for (name, _) in CASES {
        println!("{name}");
        child.argument("CASE", name).succeed();
    }
}

/// Case: `ulimit -d`, which counts memory and not the pages of files. Before: `mmap failed`, although a disk had room.
#[test]
fn a_copy_that_gets_no_memory_goes_to_disk() {
    scenario!(|| {
        let dir = temp_dir();
        let bytes = pattern(12, 12 << 20);
        let path = file_with(dir.path(), "file", &bytes);
        limit(libc::RLIMIT_DATA, status("VmData") as u64 + (8 << 20));
        let copy = Snapshot::options().lease(false).open(&path).unwrap();
        assert_same(&copy, &bytes, "ulimit -d");
        assert_eq!(copy.backing(), Backing::Disk);
        let writable = Private::open(&path).unwrap_err();
        assert_eq!(writable.raw_os_error(), Some(libc::ENOMEM));
        assert!(writable.to_string().contains("ulimit -d"), "{writable}");
    })
    .succeed();
}

/// Case: a file of /sys has another size than is reported, a page. Before: with a limit below that it was too large, and an
/// offset behind its end was accepted.
#[test]
fn a_file_of_sys_is_as_long_as_its_bytes() {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let Ok(bytes) = std::fs::read(path) else {
        return skip("no /sys");
    };
    let len = bytes.len();
    let reported = std::fs::metadata(path).unwrap().len();
    assert!((len as u64) < reported, "{reported}");
    let limits = [
        Snapshot::options(),
        Snapshot::options().size_limit(len as u64),
        Snapshot::options().copy_limit(len as u64),
        Snapshot::options().len(len),
    ];
    for options in limits {
        assert_same(&options.open(path).unwrap(), &bytes, path);
    }
    let over = Snapshot::options().size_limit(len as u64 - 1).open(path);
    assert!(matches!(over, Err(Error::TooLarge { .. })), "{over:?}");
    for options in [
        Snapshot::options().offset(len as u64 + 1),
        Snapshot::options().len(len + 1),
    ] {
        let outside = options.open(path);
        assert!(
            matches!(outside, Err(Error::OutOfBounds { .. })),
            "{outside:?}"
        );
    }
}

/// Case: all directories for temporary files are on FUSE, whose library renames a file that is removed while it is open.
/// Before: the copy was there, and any process that had the rights of this one could write to it.
#[test]
fn no_copy_goes_to_a_file_system_that_a_process_serves() {
    scenario!(|| {
        if !own_mounts() {
            return;
        }
        let Some(fuse) = LoopFs::fuse(64 << 20) else {
            return;
        };
        bind(fuse.path(), "/var/tmp");
        std::env::set_current_dir("/proc").unwrap();
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("TMPDIR", fuse.path()) };
        let bytes = pattern(11, LARGE);
        let path = file_with(fuse.path(), "file", &bytes);
        let copy = Snapshot::options().memory_limit(0).open(&path);
        assert!(matches!(copy, Err(Error::NoRoom { .. })), "{copy:?}");
        let private = Private::options().memory_limit(0).open(&path);
        assert!(matches!(private, Err(Error::NoRoom { .. })), "{private:?}");
        let copy = Snapshot::open(&path).unwrap();
        assert_eq!(copy.backing(), Backing::Memory);
        assert_same(&copy, &bytes, "on FUSE");
        crate::support::disk::unmount(Path::new("/var/tmp"));
    })
    .succeed();
}
