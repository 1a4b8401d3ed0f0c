//! Where an `Exclusive` is refused, and why.

use crate::support::child::{argument, scenario};
use crate::support::disk::LoopFs;
use crate::support::exclusive::{any_system, open, systems};
use crate::support::kernel::limit;
use crate::support::refuse::refuse;
use crate::support::user::{become_nobody, may_be_others};
use crate::support::{by_name, file_with};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use stillmap::{Error, Exclusive};

#[test]
fn a_file_that_is_open_elsewhere_is_busy() {
    for (kind, system) in systems() {
        let path = file_with(system.path(), "file", b"bytes");
        let reader = File::open(&path).unwrap();
        let message = |why| format!("is busy: {}: {why}", path.display());
        let here = "another descriptor of this process has it open; that has to be closed first";
        let error = Exclusive::open(&path).unwrap_err();
        assert_eq!(error.to_string(), message(here), "{kind}: a reader");
        drop(reader);
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        assert!(
            matches!(Exclusive::open(&path), Err(Error::Busy { .. })),
            "{kind}: a writer"
        );
        // A mapping alone keeps it open as well.
        let map = mapping_of(&writer);
        drop(writer);
        let error = Exclusive::open(&path).unwrap_err();
        let elsewhere = "it is open or mapped elsewhere; ExclusiveOptions::wait waits for it";
        assert_eq!(error.to_string(), message(elsewhere));
        let options = Exclusive::options().wait(std::time::Duration::ZERO);
        let waited = "it is open or mapped elsewhere, and was so for as long as ExclusiveOptions::wait allows";
        // An `O_PATH` descriptor does not have it open.
        let named = by_name(&path);
        assert_eq!(
            options.open(&path).unwrap_err().to_string(),
            message(waited)
        );
        drop((map, named));
        let edited = open(&path);
        let error = Exclusive::open(&path).unwrap_err();
        let ours = "this process has it open as an Exclusive; that has to be closed first";
        assert_eq!(error.to_string(), message(ours));
        edited.close().unwrap();
    }
}

/// A shared mapping that outlives its descriptor.
fn mapping_of(file: &File) -> impl Drop + use<> {
    struct Map(*mut libc::c_void);
    impl Drop for Map {
        fn drop(&mut self) {
            // SAFETY: mapped below, and no reference to it exists.
            unsafe { libc::munmap(self.0, 4096) };
        }
    }
    // SAFETY: no address asked for; nothing is replaced.
    let start = unsafe {
        let fd = std::os::fd::AsRawFd::as_raw_fd(file);
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_NONE,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    Map(start)
}

#[test]
fn what_cannot_be_protected_is_refused_with_the_reason() {
    let why = |path: &std::path::Path| match Exclusive::open(path) {
        Err(Error::Unprotectable {
            why, path: Some(p), ..
        }) if p == path => why,
        other => panic!("{}: {other:?}", path.display()),
    };
    assert!(why("/proc/self/comm".as_ref()).contains("file system"));
    for (kind, word) in [
        ("btrfs", "full disk"),
        ("overlay", "file system"),
        ("tmpfs", "file system"),
    ] {
        if let Some(system) = LoopFs::new(kind, 128 << 20) {
            let path = file_with(system.path(), "file", b"x");
            assert!(why(&path).contains(word), "{kind}: {}", why(&path));
            assert_eq!(fs::read(&path).unwrap(), b"x");
        }
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !may_be_others() {
        return;
    }
    let Some(system) = any_system() else { return };
    let path = file_with(system.path(), "file", b"x");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    fs::set_permissions(&path, mode).unwrap();
    let above = path.ancestors().nth(2).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(above, mode).unwrap();
    let mut child = scenario!(|| {
        become_nobody();
        let error = Exclusive::open(argument("PATH")).unwrap_err();
        let expected = matches!(&error, Error::Unprotectable { why, .. } if why.contains("user"));
        assert!(expected, "{error}");
    });
    child.argument("PATH", &path).succeed();
}

#[test]
fn without_userfaultfd_nothing_is_opened_and_the_reason_says_so() {
    let Some(system) = any_system() else { return };
    let path = file_with(system.path(), "file", b"bytes");
    let mut child = scenario!(|| {
        refuse(libc::SYS_userfaultfd, libc::EPERM);
        let error = Exclusive::open(argument("PATH")).unwrap_err();
        let expected = matches!(&error, Error::Unprotectable { why, .. }
            if why.contains("userfaultfd") && why.contains("seccomp"));
        assert!(expected, "{error}");
        assert_eq!(fs::read(argument("PATH")).unwrap(), b"bytes");
    });
    child.argument("PATH", &path).succeed();
}

#[test]
fn what_is_no_file_is_an_error() {
    assert!(matches!(
        Exclusive::open("/"),
        Err(Error::IsDirectory { .. })
    ));
    assert!(matches!(
        Exclusive::open("/dev/null"),
        Err(Error::NotMappable { .. })
    ));
    let error = Exclusive::open("/no/such/file").unwrap_err();
    assert_eq!(error.to_string(), "open failed on /no/such/file");
}

#[test]
fn each_call_that_the_kernel_refuses_is_an_error_and_lets_the_file_go() {
    const CALLS: [(libc::c_long, &str); 6] = [
        (libc::SYS_openat, "open"),
        (crate::support::refuse::FCNTL, "fcntl"),
        (crate::support::refuse::MMAP, "mmap"),
        (crate::support::refuse::FTRUNCATE, "ftruncate"),
        (libc::SYS_fdatasync, "fdatasync"),
        (crate::support::refuse::SYNC_FILE_RANGE, "sync_file_range"),
    ];
    let Some(system) = any_system() else { return };
    let path = file_with(system.path(), "file", &[1; 10_000]);
    for (call, name) in CALLS {
        let mut child = scenario!(|| {
            let path = std::path::PathBuf::from(argument("PATH"));
            // The lease threads start before the filter, and are not filtered.
            drop(open(&path));
            let call = argument("CALL").to_str().unwrap().parse().unwrap();
            refuse(call, libc::EIO);
            let all_of_it = || {
                let mut file = Exclusive::open(&path)?;
                file[0] = 2;
                file.start_writeback(..)?;
                file.resize(9000)?;
                file.close()
            };
            let error = all_of_it().unwrap_err();
            crate::support::child::report(format_args!("{:?} {error}", error.raw_os_error()));
        });
        let outcome = child
            .argument("PATH", &path)
            .argument("CALL", call.to_string())
            .succeed();
        let expected = format!("Some(5) {name} failed");
        let reports = outcome.reports();
        assert!(reports[0].starts_with(&expected), "{name}: {reports:?}");
        assert!(reports[0].contains(" on /"), "{name}: {reports:?}");
        // It is not open any more.
        open(&path).resize(10_000).unwrap();
    }
}

/// For every number of descriptors that a process may still open: an error that says so, and the file is not busy later.
#[test]
fn without_descriptors_it_is_an_error_and_the_file_is_free() {
    let Some(system) = any_system() else { return };
    let path = file_with(system.path(), "file", &[1; 10_000]);
    let mut child = scenario!(|| {
        let path = std::path::PathBuf::from(argument("PATH"));
        let mut is_open = false;
        for room in 0..30 {
            let next = File::open("/dev/null").unwrap().as_raw_fd() as u64;
            let before = limit(libc::RLIMIT_NOFILE, next + room);
            let opened = Exclusive::open(&path);
            limit(libc::RLIMIT_NOFILE, before);
            match opened {
                Ok(file) => {
                    is_open = true;
                    file.close().unwrap();
                    break;
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EMFILE), "{room}: {error}");
                    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
                }
            }
            Exclusive::try_open(&path).unwrap().close().unwrap();
        }
        assert!(is_open);
    });
    child.argument("PATH", &path).succeed();
}
