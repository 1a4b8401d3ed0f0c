//! Devices, and files whose size says nothing: /dev, /proc, /sys, block devices.

use crate::sizes::{assert_snapshot, assert_snapshot_from};
use crate::support::bytes::{assert_same, cat, pattern};
use crate::support::disk::LoopDevice;
use crate::support::kernel::offset_of;
use crate::support::{file_with, skip, temp_dir};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use stillmap::{Backing, Error, Snapshot};

#[test]
fn dev_null_is_empty() {
    assert_snapshot(
        &stillmap::Snapshot::open("/dev/null").unwrap(),
        b"",
        "/dev/null",
    );
    let null = File::open("/dev/null").unwrap();
    assert_snapshot(&Snapshot::from_fd(null).unwrap(), b"", "/dev/null");
}

/// A device that refuses to say its offset (EINVAL). Before: an error of lseek(2).
#[test]
fn the_log_of_the_kernel_is_a_stream() {
    let path = "/dev/kmsg";
    let mut record = [0; 8192];
    let log = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let read = log.and_then(|mut log| log.read(&mut record));
    if let Err(error) = read {
        return skip(format_args!("{path}: {error}"));
    }
    let error = Snapshot::options().size_limit(1).open(path).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
}

#[test]
fn proc_and_sys_files_say_0_or_4096() {
    let mut seen = 0;
    for path in [
        "/proc/version",
        "/proc/filesystems",
        "/proc/self/cmdline",
        "/proc/self/environ",
        "/proc/self/auxv",
        "/proc/sys/kernel/ostype",
        "/proc/devices",
        "/proc/kallsyms",
        "/proc/config.gz",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/devices/system/cpu/online",
        "/sys/kernel/notes",
        "/sys/kernel/btf/vmlinux",
        "/sys/class/net/lo/uevent",
    ] {
        let Ok(want) = File::open(path).and_then(cat) else {
            continue;
        };
        seen += 1;
        assert_same(&stillmap::Snapshot::open(path).unwrap(), &want, path);
        let file = File::open(path).unwrap();
        assert_same(&Snapshot::from_fd(&file).unwrap(), &want, path);
        // SAFETY: it is refused, or these files do not change.
        let mapped = unsafe { Snapshot::map_unguarded(&file) };
        assert_ne!(mapped.map(|bytes| bytes.len()).ok(), Some(0), "{path}");
        if want.len() > 3 {
            let window = Snapshot::options().offset(2).len(want.len() - 3).open(path);
            assert_same(&window.unwrap(), &want[2..want.len() - 1], path);
            let past = Snapshot::options().offset(1).len(want.len()).open(path);
            assert!(matches!(past, Err(Error::OutOfBounds { .. })), "{past:?}");
        }
    }
    assert!(seen >= 4, "only {seen} of them exist");
}

#[test]
fn proc_files_that_cannot_be_read_through_are_errors() {
    // Its first page is not mapped: EIO.
    let error = stillmap::Snapshot::open("/proc/self/mem").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error:?}");
    assert!(error.to_string().contains("/mem"), "{error}");
    // Reports a size of 128 TiB.
    if Path::new("/proc/kcore").exists() {
        let error = Snapshot::options()
            .memory_limit(1 << 20)
            .size_limit(1 << 20)
            .open("/proc/kcore");
        assert!(error.is_err(), "{error:?}");
        if crate::support::is_root() {
            // A window of it is a read like any other.
            let head = Snapshot::options().len(4).open("/proc/kcore");
            assert!(head.as_deref().is_ok_and(|head| head == b"\x7fELF") || head.is_err());
        }
    }
    // Its size is reported as 0, and it has more bytes than the limit.
    let error = Snapshot::options()
        .size_limit(1 << 20)
        .open("/proc/self/pagemap")
        .unwrap_err();
    assert!(
        matches!(error, Error::TooLarge { limit, .. } if limit == 1 << 20),
        "{error:?}"
    );
}

/// The first pages of a process are not mapped, and its page table has 256 GiB. Before: all that is in front of a window was
/// read, which is EIO for the one, and more than the memory for the other.
#[test]
fn a_window_behind_what_cannot_be_read() {
    let value = Box::new(pattern(3, 100));
    let at = value.as_ptr().expose_provenance() as u64;
    let window = Snapshot::options().offset(at).len(100);
    assert_same(&window.open("/proc/self/mem").unwrap(), &value, "mem");
    let past = Snapshot::options()
        .offset(u64::MAX / 2)
        .open("/proc/self/mem");
    assert_eq!(past.unwrap_err().raw_os_error(), Some(libc::EIO));
    let pagemap = File::open("/proc/self/pagemap").unwrap();
    let entry = at / stillmap::page::size() as u64 * 8;
    let window = Snapshot::options().offset(entry).len(8);
    for window in [
        window.open("/proc/self/pagemap"),
        window.from_file(&pagemap),
    ] {
        // The page is present.
        assert_eq!(window.unwrap()[7] >> 7, 1);
    }
}

#[test]
fn endless_devices_are_too_large() {
    for device in ["/dev/zero", "/dev/urandom", "/dev/full"] {
        for limit in [0, 1, 4096, 100_000, 1 << 20, (3 << 20) + 1] {
            let error = Snapshot::options()
                .size_limit(limit)
                .open(device)
                .unwrap_err();
            assert!(
                matches!(error, Error::TooLarge { limit: said, .. } if said == limit),
                "{device} {limit}: {error:?}"
            );
            assert!(error.to_string().contains(device), "{error}");
        }
        // A window ends, so it needs no limit.
        let window = Snapshot::options().len(100_000).open(device).unwrap();
        assert_eq!(window.len(), 100_000);
        if device != "/dev/urandom" {
            assert!(window.iter().all(|&byte| byte == 0));
        }
    }
}

#[test]
fn a_block_device() {
    let dir = temp_dir();
    let bytes = pattern(1, (3 << 20) + 512);
    let Some(device) = LoopDevice::new(&file_with(dir.path(), "image", &bytes)) else {
        return;
    };
    let path = device.path();
    assert_snapshot(
        &stillmap::Snapshot::open(path).unwrap(),
        &bytes,
        "block device",
    );
    let file = File::open(path).unwrap();
    assert_snapshot(&Snapshot::from_fd(&file).unwrap(), &bytes, "its descriptor");
    assert_eq!(offset_of(&file), bytes.len() as u64);
    (&file).seek(SeekFrom::Start(1000)).unwrap();
    let rest = Snapshot::from_fd(&file).unwrap();
    assert_snapshot_from(1000, &rest, &bytes[1000..], "from 1000");
    let window = Snapshot::options()
        .offset(77)
        .len(2 << 20)
        .open(path)
        .unwrap();
    assert_same(&window, &bytes[77..77 + (2 << 20)], "window");
    assert_eq!(
        window.backing(),
        Backing::Memory,
        "nothing protects a device"
    );
    let past = Snapshot::options()
        .offset(bytes.len() as u64 - 1)
        .len(2)
        .open(path);
    assert!(matches!(past, Err(Error::OutOfBounds { .. })), "{past:?}");
    let over = Snapshot::options().size_limit(1 << 20).open(path);
    assert!(matches!(over, Err(Error::TooLarge { .. })), "{over:?}");
}

#[test]
fn the_current_terminal_of_a_process_without_one_is_an_error() {
    match File::open("/dev/tty") {
        Ok(_) => skip("there is a terminal"),
        Err(error) => {
            let ours = stillmap::Snapshot::open("/dev/tty").unwrap_err();
            assert_eq!(ours.raw_os_error(), error.raw_os_error());
        }
    }
}
