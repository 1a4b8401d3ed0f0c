//! When there is no memory for the copy it goes to disk; when no further mapping is possible, it is made all the same.

use super::Folder;
use super::leased;
use super::support::child::{fork, report, scenario};
use super::support::control_group::ControlGroup;
use super::support::kernel::{fill_mappings, limit, may_open, most_mappings, status};
use super::support::{self, exclusive, skip, user};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use stillmap::{Backing, Exclusive, Reason, Snapshot, SnapshotOptions};

const LEN: usize = 8 << 20;

/// A writer comes to a leased file after `hinder`; what keeps the bytes then. `None` where there are no leases.
fn after_a_writer(options: SnapshotOptions, hinder: impl FnOnce()) -> Option<Backing> {
    let folder = Folder::new()?;
    let path = folder.path().join("file");
    fs::write(&path, vec![5; LEN]).unwrap();
    let snapshot = options.open(&path).unwrap();
    assert_eq!(snapshot.backing(), Backing::Leased);
    hinder();
    fs::write(&path, b"new").unwrap();
    let backing = snapshot.backing();
    assert!(snapshot.iter().all(|&byte| byte == 5));
    assert!(snapshot.is_consistent());
    Some(backing)
}

#[test]
fn a_writer_gets_through_at_the_limit_of_private_memory() {
    scenario!(|| {
        // Anonymous memory counts as data (Linux 4.7), mappings of files do not.
        let hinder = || {
            limit(libc::RLIMIT_DATA, status("VmData") as u64 + (1 << 20));
        };
        let backing = after_a_writer(Snapshot::options(), hinder);
        // Into the reserved addresses or to disk.
        assert_ne!(backing, Some(Backing::Leased));
    })
    .succeed();
}

#[test]
fn above_its_memory_limit_the_copy_goes_to_disk() {
    scenario!(|| {
        let options = Snapshot::options().memory_limit(LEN as u64 - 1);
        let backing = after_a_writer(options, || {});
        assert!(matches!(
            backing,
            None | Some(Backing::Cloned | Backing::Disk)
        ));
    })
    .succeed();
}

#[test]
fn a_writer_gets_through_when_there_can_be_no_more_mappings() {
    scenario!(|| {
        if most_mappings() > 1 << 20 {
            return skip("vm.max_map_count is out of reach");
        }
        let backing = after_a_writer(Snapshot::options(), || drop(fill_mappings()));
        assert_ne!(backing, Some(Backing::Leased));
    })
    .succeed();
}

#[test]
fn more_snapshots_than_descriptors() {
    scenario!(|| {
        if !may_open(100) {
            return;
        }
        let Some(folder) = Folder::new() else {
            return;
        };
        let bytes = vec![5; 5 << 18];
        let open = |number: usize| {
            let path = folder.path().join(number.to_string());
            fs::write(&path, &bytes).unwrap();
            stillmap::Snapshot::open(&path).unwrap()
        };
        // With 60 none was left to the program: no process was thought to have so few.
        for most in [100, 60] {
            limit(libc::RLIMIT_NOFILE, most);
            let snapshots: Vec<_> = (0..200).map(open).collect();
            assert_eq!(snapshots[0].backing(), Backing::Leased);
            assert_ne!(snapshots[199].backing(), Backing::Leased);
            assert!(snapshots.iter().all(|snapshot| snapshot[..] == bytes));
            let path = folder.path().join("0");
            // The program has some left, and so has the copying thread.
            let left: Vec<_> = (0..10).map(|_| fs::File::open(&path).unwrap()).collect();
            fs::write(&path, b"new").unwrap();
            assert!(snapshots.iter().all(|snapshot| snapshot[..] == bytes));
            drop(left);
        }
    })
    .succeed();
}

/// Case: `ulimit -v` 300 MiB, and a file of 150 MiB that a writer opens: its copy needs as many addresses again. The process
/// ended.
#[test]
fn a_limit_of_addresses_leaves_room_for_the_copy() {
    scenario!(|| {
        const SIZE: u64 = 150 << 20;
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
        limit(libc::RLIMIT_AS, status("VmSize") as u64 + 2 * SIZE);
        let Ok(snapshot) = Snapshot::open(&path) else {
            return skip("no lease, and no addresses for a copy in memory");
        };
        fs::write(&path, b"new").unwrap();
        assert_eq!(snapshot.len() as u64, SIZE);
        assert!(snapshot.iter().step_by(4096).all(|&byte| byte == 0));
        assert!(snapshot.is_consistent());
    })
    .succeed();
}

/// Attack "`ulimit -v`": a file is leased, then there are no addresses left, then a writer comes. Before: held for 40 s,
/// then the process was aborted.
#[test]
fn a_writer_gets_through_without_addresses() {
    scenario!(|| {
        let hinder = || {
            limit(libc::RLIMIT_AS, status("VmSize") as u64);
        };
        let backing = after_a_writer(Snapshot::options(), hinder);
        assert!(matches!(backing, None | Some(Backing::Memory)));
    })
    .succeed();
}

/// Attack: the limit is lowered below what the program uses (`nix::sys::resource::setrlimit`). The kernel refuses every
/// mmap(2) then, also in place of reserved addresses. Before: held for 40 s, then the process was aborted.
#[test]
fn a_writer_gets_through_with_more_addresses_than_the_limit() {
    scenario!(|| {
        let hinder = || {
            limit(libc::RLIMIT_AS, status("VmSize") as u64 / 2);
        };
        let backing = after_a_writer(Snapshot::options(), hinder);
        assert!(matches!(backing, None | Some(Backing::Memory)));
    })
    .succeed();
}

/// Attack: the program locks all its later mappings (`nix::sys::mman::mlockall`), and may lock few. Before: as above.
#[test]
fn a_writer_gets_through_where_every_mapping_would_be_locked() {
    scenario!(|| {
        if !user::may_be_nobody() {
            return;
        }
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        fs::write(&path, vec![5; LEN]).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let snapshot = leased(|| Snapshot::open(&path));
        limit(libc::RLIMIT_MEMLOCK, 1 << 20);
        user::become_nobody();
        // SAFETY: takes a number.
        let locked = unsafe { libc::mlockall(libc::MCL_FUTURE) };
        assert_eq!(locked, 0, "{}", std::io::Error::last_os_error());
        File::options().write(true).open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::Memory);
        assert!(snapshot.iter().all(|&byte| byte == 5));
    })
    .succeed();
}

/// The same, with too few addresses when the file is opened: what an answer needs is not there, so there is no lease.
#[test]
fn without_addresses_for_an_answer_there_is_no_lease() {
    scenario!(|| {
        let Some(folder) = Folder::new() else {
            return;
        };
        let path = folder.path().join("file");
        let len = 64 << 20;
        File::create(&path).unwrap().set_len(len).unwrap();
        // The threads and their buffers.
        let small = folder.path().join("small");
        fs::write(&small, vec![5; 2 << 20]).unwrap();
        drop(leased(|| Snapshot::open(&small)));
        limit(libc::RLIMIT_AS, status("VmSize") as u64 + len + len / 2);
        if let Ok(snapshot) = Snapshot::open(&path) {
            assert_ne!(snapshot.backing(), Backing::Leased);
            assert!(snapshot.iter().all(|&byte| byte == 0));
        }
    })
    .succeed();
}

/// Attack "no thread can be started" (pids.max). Before: the lease was taken, and with a slow disk no thread watched
/// the time; at 45.28 s a byte changed.
#[test]
fn without_threads_there_is_no_lease() {
    let mut child = scenario!(|| {
        let (Some(folder), Some(group)) = (Folder::new(), ControlGroup::with_pids()) else {
            return;
        };
        let path = folder.path().join("file");
        fs::write(&path, vec![5; 2 << 20]).unwrap();
        let system = exclusive::any_system();
        for threads in [0, 1] {
            let child = fork(|| {
                group.join_with(threads);
                let snapshot = Snapshot::open(&path).unwrap();
                assert_eq!(snapshot.reason(), Some(Reason::Threads));
                assert!(snapshot.iter().all(|&byte| byte == 5));
                if let Some(system) = &system {
                    let path = support::file_with(system.path(), "edited", &[1; 5000]);
                    let refused = Exclusive::open(&path).unwrap_err();
                    assert!(refused.to_string().contains("threads"), "{refused}");
                }
            });
            child.succeed();
        }
        report("done");
    });
    child.succeed();
}
