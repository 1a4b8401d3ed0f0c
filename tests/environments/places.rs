//! The environments: each is made in a child process with mounts of its own.

use super::support::bytes::pattern;
use super::support::child::argument;
use super::support::control_group::join;
use super::support::disk::LoopFs;
use super::support::kernel::{descriptors, limit};
use super::support::namespace::{bind, mount, own_mounts};
use super::support::refuse::{FSTATFS, refuse};
use super::support::user::{become_nobody, may_be_others, with_capabilities};
use crate::skip;
use std::any::Any;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// A file to open, and what has to stay for it.
pub struct Place {
    pub file: PathBuf,
    _keep: Vec<Box<dyn Any>>,
}

/// Above the size up to which files are read rather than mapped.
const LEN: usize = 3 << 20;

const DISK: u64 = 512 << 20;

pub const GROUP_BYTES: u64 = 256 << 20;
const BEYOND_GROUP: u64 = 300 << 20;

type Make = fn() -> Option<Place>;

/// By the names of their rows.
pub const PLACES: &[(&str, Make)] = &[
    ("root, ext4", || on("ext4")),
    ("xfs", || on("xfs")),
    ("btrfs", || on("btrfs")),
    ("tmpfs", || on("tmpfs")),
    ("squashfs", || read_only_system("squashfs")),
    ("erofs", || read_only_system("erofs")),
    ("iso9660", || read_only_system("iso9660")),
    ("FUSE (ext4 by fuse2fs)", on_fuse),
    ("overlay, upper file", || overlay(false)),
    ("overlay, lower file", || overlay(true)),
    ("read-only bind mount", read_only_bind),
    ("immutable file", immutable),
    ("a process has it open for writing", written),
    ("user, own file", || user(true)),
    ("user, file of root", || user(false)),
    ("container's seccomp filter and capabilities", container),
    (
        "seccomp filter that answers calls since 4.5 with EPERM",
        old_filter,
    ),
    (
        "seccomp filter that refuses fstatfs and getrandom",
        strict_filter,
    ),
    (IN_GROUP, in_group),
    ("`ulimit -n`: 28 of 128 left", few_descriptors),
    ("`ulimit -v`: 16 MiB left", few_addresses),
    ("`ulimit -u`: none left", no_threads),
];

const IN_GROUP: &str = "300 MiB in a memory group of 256 MiB";

/// True if the environment is a memory group, which the parent makes.
pub fn is_in_group(name: &str) -> bool {
    name == IN_GROUP
}

fn place(dir: &Path, keep: impl Any) -> Option<Place> {
    let file = dir.join("file");
    fs::write(&file, pattern(1, LEN)).unwrap();
    kept(file, keep)
}

fn kept(file: PathBuf, keep: impl Any) -> Option<Place> {
    Some(Place {
        file,
        _keep: vec![Box::new(keep)],
    })
}

fn disk(kind: &str) -> Option<LoopFs> {
    own_mounts().then(|| LoopFs::new(kind, DISK)).flatten()
}

fn on(kind: &str) -> Option<Place> {
    let disk = disk(kind)?;
    let path = disk.path().to_path_buf();
    place(&path, disk)
}

fn read_only_system(kind: &str) -> Option<Place> {
    if !own_mounts() {
        return None;
    }
    let disk = LoopFs::read_only(kind, &[("file", &pattern(1, LEN))])?;
    kept(disk.path().join("file"), disk)
}

fn on_fuse() -> Option<Place> {
    if !own_mounts() {
        return None;
    }
    let mounted = LoopFs::fuse(64 << 20)?;
    let path = mounted.path().to_path_buf();
    place(&path, mounted)
}

fn overlay(is_lower: bool) -> Option<Place> {
    let disk = disk("ext4")?;
    let dirs = ["lower", "upper", "work", "merged"].map(|name| {
        let dir = disk.path().join(name);
        fs::create_dir(&dir).unwrap();
        dir
    });
    let [lower, upper, work, merged] = dirs.each_ref().map(|dir| dir.to_str().unwrap());
    if is_lower {
        fs::write(dirs[0].join("file"), pattern(1, LEN)).unwrap();
    }
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount("none", merged.as_ref(), Some("overlay"), 0, &options);
    if is_lower {
        kept(dirs[3].join("file"), disk)
    } else {
        place(&dirs[3], disk)
    }
}

fn read_only_bind() -> Option<Place> {
    let disk = disk("ext4")?;
    let path = disk.path().to_path_buf();
    let place = place(&path, disk)?;
    let dir = place.file.parent().unwrap();
    bind(dir, dir);
    let read_only = libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY;
    mount("none", dir, None, read_only, "");
    Some(place)
}

/// `chattr +i`.
fn immutable() -> Option<Place> {
    const IMMUTABLE: libc::c_long = 0x10;
    let place = on("ext4")?;
    let file = File::open(&place.file).unwrap();
    let mut flags: libc::c_long = 0;
    // SAFETY: writes one number.
    unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &mut flags) };
    flags |= IMMUTABLE;
    // SAFETY: reads one number.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &flags) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    Some(place)
}

fn written() -> Option<Place> {
    let mut place = on("ext4")?;
    let writer = OpenOptions::new().append(true).open(&place.file).unwrap();
    place._keep.push(Box::new(writer));
    Some(place)
}

fn user(is_own: bool) -> Option<Place> {
    const NOBODY: u32 = 65534;
    let place = may_be_others().then(|| on("ext4")).flatten()?;
    let dir = place.file.parent().unwrap();
    for path in [dir, &place.file] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        if is_own {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    become_nobody();
    Some(place)
}

/// The defaults of a container engine: 14 capabilities, and no calls that make namespaces, mounts, io_urings or
/// userfaultfds. Source: the default profile of moby and containerd.
fn container() -> Option<Place> {
    let place = on("ext4")?;
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod,
    // audit_write, setfcap: capabilities(7).
    let allowed = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31];
    if !with_capabilities(allowed.iter().map(|bit| 1 << bit).sum()) {
        return None;
    }
    for call in [
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_mbind,
        libc::SYS_move_pages,
        libc::SYS_fanotify_init,
        libc::SYS_open_by_handle_at,
        libc::SYS_perf_event_open,
        libc::SYS_bpf,
        libc::SYS_kcmp,
    ] {
        refuse(call, libc::EPERM);
    }
    refuse(libc::SYS_clone3, libc::ENOSYS);
    Some(place)
}

/// Engines of 2018 answered calls that they did not know with EPERM.
fn old_filter() -> Option<Place> {
    if cfg!(target_pointer_width = "32") {
        skip("the old filter: fstat(3) of the C library needs statx(2) where times have 32 bits");
        return None;
    }
    let place = on("ext4")?;
    for call in [
        libc::SYS_copy_file_range,
        libc::SYS_preadv2,
        libc::SYS_statx,
        libc::SYS_pidfd_open,
        libc::SYS_openat2,
        libc::SYS_close_range,
        libc::SYS_faccessat2,
        libc::SYS_userfaultfd,
    ] {
        refuse(call, libc::EPERM);
    }
    Some(place)
}

/// A sandbox that lists what it allows.
fn strict_filter() -> Option<Place> {
    let place = on("ext4")?;
    refuse(FSTATFS, libc::EPERM);
    refuse(libc::SYS_getrandom, libc::ENOSYS);
    Some(place)
}

fn in_group() -> Option<Place> {
    let disk = disk("ext4")?;
    let file = disk.path().join("file");
    File::create(&file).unwrap().set_len(BEYOND_GROUP).unwrap();
    join(argument("GROUP"));
    kept(file, disk)
}

fn few_descriptors() -> Option<Place> {
    let mut place = on("ext4")?;
    while descriptors().len() < 100 {
        place._keep.push(Box::new(File::open("/dev/null").unwrap()));
    }
    limit(libc::RLIMIT_NOFILE, 128);
    Some(place)
}

fn few_addresses() -> Option<Place> {
    if cfg!(any(target_env = "musl", target_pointer_width = "32")) {
        // A quarter of the limit is for the program: more than 16 MiB only where the allocator has reserved addresses.
        skip("`ulimit -v`: the row is that of glibc's allocator with 64 bits");
        return None;
    }
    let place = on("ext4")?;
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    limit(libc::RLIMIT_AS, pages * 4096 + (16 << 20));
    Some(place)
}

fn no_threads() -> Option<Place> {
    let place = user(true)?;
    limit(libc::RLIMIT_NPROC, 0);
    Some(place)
}
