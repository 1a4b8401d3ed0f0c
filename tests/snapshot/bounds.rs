//! Limits that a program sets, and the resources that are left to it.

use crate::support::bytes::pattern;
use crate::support::child::{argument, scenario};
use crate::support::kernel::{limit, may_open};
use crate::support::leased::{Folder, leased};
use crate::support::namespace::{hide, own_mounts};
use crate::support::refuse::{FCNTL, Refusal, refuse_if};
use crate::support::user::{become_nobody, may_be_others};
use crate::support::{file_with, temp_dir};
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use stillmap::{Backing, Error, Reason, Snapshot};

fn reason_of(error: &Error) -> Option<Reason> {
    match error {
        Error::NotMappable { reason, .. } => *reason,
        _ => panic!("{error:?}"),
    }
}

/// Case: the default took 520 MB for 2,000 files of root's of 256 KiB, as another user. With a copy limit they are refused
/// with the reason, and files of the user's own are mapped.
#[test]
fn a_copy_limit_refuses_small_files_of_another_owner() {
    const SIZE: usize = 256 << 10;
    if !may_be_others() {
        return;
    }
    let Some(folder) = Folder::new() else {
        return;
    };
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    file_with(folder.path(), "roots", &pattern(1, SIZE));
    scenario!(|| {
        become_nobody();
        let dir = std::path::PathBuf::from(argument("FOLDER"));
        let own = file_with(&dir, "own", &pattern(2, SIZE));
        let options = Snapshot::options().copy_limit(64 << 10);
        let refused = options.open(dir.join("roots")).unwrap_err();
        assert_eq!(reason_of(&refused), Some(Reason::OtherOwner));
        leased(|| options.open(&own));
        let copied = Snapshot::options().copy_limit(SIZE as u64);
        let copied = copied.open(dir.join("roots")).unwrap();
        assert_eq!(copied.backing(), Backing::Memory);
    })
    .argument("FOLDER", folder.path())
    .succeed();
}

/// Case: at `ulimit -n 1024` a program that opened files with `require_mapping` could open nothing more.
#[test]
fn the_last_descriptors_are_for_the_program_whatever_is_required() {
    scenario!(|| {
        if !may_open(1024) {
            return;
        }
        let Some(folder) = Folder::new() else {
            return;
        };
        limit(libc::RLIMIT_NOFILE, 1024);
        let options = Snapshot::options().require_mapping(true);
        let open = |number: usize| {
            let path = folder.path().join(number.to_string());
            File::create(&path).unwrap().set_len(2 << 20).unwrap();
            options.open(&path)
        };
        let (mapped, refused): (Vec<_>, Vec<_>) = (0..800).map(open).partition(Result::is_ok);
        assert!(mapped.len() > 500, "{} mapped", mapped.len());
        for error in refused.iter().filter_map(|refused| refused.as_ref().err()) {
            assert_eq!(reason_of(error), Some(Reason::Descriptors));
        }
        assert!(!refused.is_empty());
        let mut programs = Vec::new();
        programs.resize_with(200, || File::open("/dev/null").unwrap());
        // Small files are read as ever.
        let small = file_with(folder.path(), "small", &pattern(3, 64 << 10));
        assert_eq!(options.open(small).unwrap().backing(), Backing::Memory);
    })
    .succeed();
}

/// Case: a file system without leases answers EINVAL, as a kernel does whose leases are turned off.
#[test]
fn a_file_system_without_leases_is_the_reason() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = file_with(folder.path(), "file", &pattern(4, 3 << 20));
        refuse_if(Refusal {
            call: FCNTL,
            errno: libc::EINVAL,
            argument: Some((1, u32::MAX, libc::F_SETLEASE as u32)),
        });
        let snapshot = Snapshot::open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::Memory);
        assert_eq!(snapshot.reason(), Some(Reason::FileSystem));
    })
    .succeed();
}

/// Case: without /proc/meminfo the available memory was unlimited.
#[test]
fn without_proc_memory_is_limited() {
    scenario!(|| {
        if !own_mounts() {
            return;
        }
        hide("/proc");
        let dir = temp_dir();
        let path = dir.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 38).unwrap();
        match Snapshot::options().lease(false).open(Path::new(&path)) {
            Ok(snapshot) => assert_ne!(snapshot.backing(), Backing::Memory),
            Err(error) => assert!(
                matches!(error, Error::NoRoom { .. } | Error::TooLarge { .. }),
                "{error:?}"
            ),
        }
    })
    .succeed();
}
