//! The strategy for each kind of file, and the right bytes from each.

use super::support::child::scenario;
use super::support::disk::LoopFs;
use super::support::kernel::{may_map, may_write};
use super::support::user::{become_nobody, may_be_others, with_capabilities};
use super::support::{file_with, skip, temp_dir, temp_dir_in};
use super::{Disk, Folder, leased};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use stillmap::{Backing, Error, Snapshot};

const LEN: usize = 3 << 20;

fn bytes() -> Vec<u8> {
    (0..LEN).map(|i| (i % 251) as u8).collect()
}

/// Where files can be cloned they are; elsewhere they are copied.
fn without_lease(disk: &Disk) -> Backing {
    // A clone would start without the pages that are in the page cache.
    assert!(!disk.name.is_empty());
    Backing::Memory
}

#[test]
fn a_file_that_nobody_writes_to_is_leased() {
    for disk in Disk::all() {
        let path = file_with(disk.path(), "quiet", &bytes());
        let snapshot = leased(|| stillmap::Snapshot::open(&path));
        assert!(snapshot[..] == bytes());
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_file_with_a_live_writer_is_cloned_or_copied() {
    for disk in Disk::all() {
        let path = file_with(disk.path(), "written", &bytes());
        let writer = OpenOptions::new().append(true).open(&path).unwrap();
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        assert_eq!(snapshot.backing(), without_lease(&disk), "{}", disk.name);
        drop(writer);
        assert!(snapshot[..] == bytes());
        assert!(snapshot.is_consistent());
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_mapping_counts_as_a_writer_after_its_descriptor_is_closed() {
    for disk in Disk::all() {
        let path = file_with(disk.path(), "mapped", &bytes());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .unwrap();
        // SAFETY: the mapping is written to below, through itself only.
        let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
        drop(file);
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        assert_eq!(snapshot.backing(), without_lease(&disk), "{}", disk.name);
        map[0] = 99;
        map.flush().unwrap();
        assert_eq!(snapshot[0], 0);
        drop(map);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_clone_stays_when_the_file_is_overwritten() {
    for disk in ["xfs", "btrfs"].into_iter().filter_map(Disk::mounted) {
        let path = file_with(disk.path(), "cloned", &bytes());
        let options = Snapshot::options().memory_limit(0);
        let clone = options.clone().lease(false).open(&path).unwrap();
        let window = options
            .lease(false)
            .offset(5000)
            .len(2 << 20)
            .open(&path)
            .unwrap();
        assert_eq!(clone.backing(), Backing::Cloned);
        assert_eq!(window.backing(), Backing::Cloned);
        fs::write(&path, vec![9; LEN]).unwrap();
        assert!(clone[..] == bytes());
        assert!(window[..] == bytes()[5000..5000 + (2 << 20)]);
    }
}

#[test]
fn where_a_lease_proves_nothing_there_is_none() {
    if let Some(overlay) = LoopFs::new("overlay", 64 << 20) {
        let path = file_with(overlay.path(), "file", &bytes());
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::Memory);
        assert!(snapshot[..] == bytes());
    }
    if let Some(memory) = LoopFs::new("tmpfs", 64 << 20) {
        let path = file_with(memory.path(), "file", &bytes());
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::Memory);
        assert!(snapshot[..] == bytes());
    }
    if let Some(squashed) = LoopFs::squashfs(&[("file", &bytes())]) {
        let snapshot = stillmap::Snapshot::open(squashed.path().join("file")).unwrap();
        assert_eq!(snapshot.backing(), Backing::ReadOnly);
        assert!(snapshot[..] == bytes());
    }
    for path in [
        "/proc/self/status",
        "/proc/kallsyms",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ] {
        if File::open(path).is_ok() {
            let snapshot = stillmap::Snapshot::open(path).unwrap();
            assert_eq!(snapshot.backing(), Backing::Memory, "{path}");
            assert!(!snapshot.is_empty(), "{path}");
        }
    }
}

/// Attack: another file system comes to the device number and the path of one that keeps leases. What was known of the
/// device was taken for what is there now.
#[test]
fn a_file_system_is_looked_up_again_after_it_was_mounted() {
    scenario!(|| {
        let Some(disk) = LoopFs::new("ext4", 64 << 20) else {
            return;
        };
        let path = file_with(disk.path(), "file", &bytes());
        for _ in 0..2 {
            drop(leased(|| Snapshot::open(&path)));
        }
        if let Err(error) = disk.become_squashfs(&[("file", &bytes())]) {
            return skip(format_args!("no squashfs: {error}"));
        }
        let snapshot = Snapshot::open(&path).unwrap();
        assert_eq!(snapshot.backing(), Backing::ReadOnly);
        assert!(snapshot[..] == bytes());
    })
    .succeed();
}

#[test]
fn a_file_of_another_owner_is_copied_for_an_unprivileged_user() {
    if !may_be_others() {
        return;
    }
    let folder = temp_dir();
    let path = file_with(folder.path(), "of-root", &bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    scenario!(|| {
        become_nobody();
        let path = super::support::child::argument("PATH");
        let snapshot = stillmap::Snapshot::open(&path).unwrap();
        assert_ne!(snapshot.backing(), Backing::Leased);
        assert!(snapshot[..] == bytes());
    })
    .argument("PATH", &path)
    .succeed();
}

/// What docs/leases.md names for files of another owner: `setcap cap_lease+ep`, or a container that has it.
#[test]
fn a_file_of_another_owner_is_leased_with_cap_lease_alone() {
    if !may_be_others() {
        return;
    }
    let Some(folder) = Folder::new() else {
        return;
    };
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = file_with(folder.path(), "of-root", &bytes());
    scenario!(|| {
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1) }, 0);
        become_nobody();
        // CAP_LEASE, capabilities(7).
        if with_capabilities(1 << 28) {
            let path = super::support::child::argument("PATH");
            let snapshot = leased(|| Snapshot::open(&path));
            assert!(snapshot[..] == bytes());
        }
    })
    .argument("PATH", &path)
    .succeed();
}

#[test]
fn options_choose_the_strategy() {
    let Some(folder) = Folder::new() else {
        return;
    };
    let path = file_with(folder.path(), "file", &bytes());
    let backing = |options: stillmap::SnapshotOptions| {
        let snapshot = options.open(&path).unwrap();
        assert!(snapshot[..] == bytes());
        snapshot.backing()
    };
    let options = Snapshot::options;
    leased(|| stillmap::Snapshot::open(&path));
    leased(|| options().populate(true).open(&path));
    assert_ne!(backing(options().lease(false)), Backing::Leased);
    let elsewhere = backing(options().lease(false).memory_limit(0));
    assert!(matches!(elsewhere, Backing::Disk | Backing::Cloned));
}

#[test]
fn must_map_fails_rather_than_copy() {
    let Some(disk) = Disk::mounted("ext4").filter(Disk::has_leases) else {
        return;
    };
    let path = file_with(disk.path(), "file", &bytes());
    let options = || Snapshot::options().require_mapping(true);
    leased(|| options().open(&path));
    let error = options().lease(false).open(&path).unwrap_err();
    assert!(
        matches!(&error, Error::NotMappable { path: Some(p), .. } if *p == path),
        "{error}"
    );
}

#[test]
fn a_copy_on_disk_goes_with_its_snapshot() {
    let disk = Disk::of_the_build();
    let folder = temp_dir_in(disk.path());
    let path = file_with(folder.path(), "file", &bytes());
    let copy = Snapshot::options()
        .lease(false)
        .memory_limit(1000)
        .open(&path)
        .unwrap();
    fs::write(&path, b"new").unwrap();
    assert!(copy[..] == bytes());
    let names = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(names, 1, "the copy has no name");
}

#[test]
fn holes_stay_holes_in_a_copy_on_disk() {
    use std::os::unix::fs::FileExt;
    // More than any disk here has space for, and more than a test could wait for.
    let len = 8_u64 << 40;
    if !may_write(len) || !may_map(len) {
        return;
    }
    let disk = Disk::of_the_build();
    let folder = temp_dir_in(disk.path());
    let path = folder.path().join("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(len).unwrap();
    file.write_all_at(b"middle", len / 2).unwrap();
    let options = Snapshot::options().lease(false).memory_limit(1 << 20);
    let copy = options.open(&path).unwrap();
    assert_eq!((copy.len() as u64, copy.backing()), (len, Backing::Disk));
    assert_eq!(&copy[copy.len() / 2..][..7], b"middle\0");
    assert_eq!((copy[0], copy.last()), (0, Some(&0)));
}

/// A hole of a tmpfs takes a page when it is read, and there may be none.
#[test]
fn a_full_tmpfs_is_no_signal() {
    let Some(disk) = Disk::mounted_with_size("tmpfs", 4 << 20) else {
        return;
    };
    let path = disk.path().join("sparse");
    File::create(&path).unwrap().set_len(8 << 20).unwrap();
    let leased = stillmap::Snapshot::open(&path).unwrap();
    let copied = Snapshot::options().memory_limit(0).open(&path).unwrap();
    // Fills what is left.
    assert!(fs::write(disk.path().join("full"), vec![1; 8 << 20]).is_err());
    assert!(leased.iter().chain(copied.iter()).all(|&byte| byte == 0));
}
