//! A device that fails to write: never `Ok` for bytes that are not on it, and nothing is lost.

use crate::draft_of;
use crate::support::bytes::{assert_same, pattern};
use crate::support::child::{argument, scenario};
use crate::support::disk::LoopFs;
use crate::support::exclusive::{has_userfaultfd, open};
use crate::support::refuse::refuse;
use crate::support::trace::{Traced, stop_here};
use crate::support::{file_with, temp_dir_in};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use stillmap::{Draft, Error, Replace};

/// A disk whose storage is in a file with holes, on a tmpfs.
struct Failing {
    disk: LoopFs,
    storage: LoopFs,
    /// Directory on another disk.
    other: tempfile::TempDir,
}

impl Failing {
    fn new() -> Option<Self> {
        let other = temp_dir_in(env!("CARGO_TARGET_TMPDIR").as_ref());
        let storage = LoopFs::new("tmpfs", 48 << 20)?;
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("TMPDIR", storage.path()) };
        let disk = LoopFs::new("ext4", 64 << 20)?;
        Some(Failing {
            disk,
            storage,
            other,
        })
    }

    /// From here on the storage has no room for blocks that were never written.
    fn fail(&self) {
        let mut rest = File::create(self.storage.path().join("rest")).unwrap();
        while rest.write_all(&[7; 4096]).is_ok() {}
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = file_with(self.disk.path(), "file", bytes);
        File::open(&path).unwrap().sync_all().unwrap();
        File::open(self.disk.path()).unwrap().sync_all().unwrap();
        path
    }
}

#[test]
fn a_commit_fails_and_the_draft_can_go_elsewhere() {
    for (replace, limit) in [
        (Replace::Rename, u64::MAX),
        (Replace::Rename, 0),
        (Replace::InPlace, u64::MAX),
        (Replace::RenameOrInPlace, u64::MAX),
    ] {
        let mut child = scenario!(|| {
            let argument = |name| {
                crate::support::child::argument(name)
                    .to_str()
                    .unwrap()
                    .to_owned()
            };
            let replace = match &argument("REPLACE")[..] {
                "InPlace" => Replace::InPlace,
                "Rename" => Replace::Rename,
                _ => Replace::RenameOrInPlace,
            };
            let Some(failing) = Failing::new() else {
                return;
            };
            let path = failing.file(b"old");
            let bytes = pattern(1, 4 << 20);
            let options = Draft::options().replace(replace);
            let options = options.memory_limit(argument("LIMIT").parse().unwrap());
            let mut draft = draft_of(options, &path, &bytes).unwrap();
            failing.fail();
            for round in 0..3 {
                let failed = draft.commit().expect_err("a commit to a device that fails");
                let Error::Os { .. } = failed.error else {
                    panic!("{:?}", failed.error);
                };
                draft = failed.draft;
                assert_same(&draft, &bytes, format_args!("round {round}"));
                if replace != Replace::InPlace {
                    assert_eq!(fs::read(&path).unwrap(), b"old");
                }
            }
            let other = failing.other.path().join("other");
            draft.commit_to(&other).unwrap();
            assert_same(&fs::read(&other).unwrap(), &bytes, "elsewhere");
        });
        let child = child.argument("REPLACE", format!("{replace:?}"));
        child.argument("LIMIT", limit.to_string()).succeed();
    }
}

/// The kernel reports once that it could not write a page, and counts the page as written. Before: the second flush, and
/// `close`, returned `Ok`.
#[test]
fn a_flush_that_failed_does_not_succeed_later() {
    if !has_userfaultfd() {
        return;
    }
    scenario!(|| {
        let Some(failing) = Failing::new() else {
            return;
        };
        let path = failing.file(b"old");
        let mut file = open(&path);
        file.resize(4 << 20).unwrap();
        failing.fail();
        file.fill(7);
        let first = file.flush().unwrap_err();
        for again in [file.flush(), file.flush_range(..4096), file.close()] {
            let again = again.unwrap_err();
            assert_eq!(again.raw_os_error(), first.raw_os_error(), "{again}");
        }
    })
    .succeed();
}

/// A second fsync(2) of the same file would succeed, and prove nothing: its bytes are written again, to a new file.
#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "registers of x86-64")]
fn after_a_failed_fsync_all_bytes_are_written_again() {
    scenario!(|| {
        if !Traced::is_possible() {
            return;
        }
        let dir = crate::support::temp_dir();
        for options in crate::stores(dir.path()) {
            let path = dir.path().join("file");
            let child = crate::support::child::fork(|| {
                stop_here();
                let draft = draft_of(options, &path, &[7; 10_000]).unwrap();
                let inode = draft.file().unwrap().metadata().unwrap().ino();
                let failed = draft.commit().unwrap_err();
                assert_eq!(failed.raw_os_error(), Some(libc::EIO));
                assert!(!path.exists());
                failed.draft.commit().unwrap();
                assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
                assert_eq!(fs::read(&path).unwrap(), [7; 10_000]);
            });
            let mut traced = Traced::new(child.id());
            let mut failed = 0;
            while failed == 0 && traced.step() {
                if traced.entering() == Some(libc::SYS_fsync) {
                    traced.fail(libc::EIO);
                    failed += 1;
                }
            }
            assert_eq!(failed, 1);
            assert_eq!(traced.run_on(), 0);
            fs::remove_file(&path).unwrap();
        }
    })
    .succeed();
}

/// What is written out by a descriptor, as to standard output.
#[test]
fn bytes_written_to_a_descriptor_are_not_durable_on_a_device_that_fails() {
    scenario!(|| {
        let Some(failing) = Failing::new() else {
            return;
        };
        let path = failing.file(b"");
        let bytes = pattern(1, 4 << 20);
        let output = File::options().append(true).open(path).unwrap();
        let name = format!("/dev/fd/{}", output.as_raw_fd());
        let draft = draft_of(Draft::options(), name.as_ref(), &bytes).unwrap();
        failing.fail();
        let failed = draft.commit().expect_err("a commit to a device that fails");
        let Error::Os { .. } = failed.error else {
            panic!("{:?}", failed.error);
        };
        let other = failing.other.path().join("other");
        failed.draft.commit_to(&other).unwrap();
        assert_same(&fs::read(&other).unwrap(), &bytes, "elsewhere");
    })
    .succeed();
}

/// Network file systems report a full disk or quota at fsync(2) only; ext4 is read-only after an error of its device.
#[test]
fn an_fsync_of_standard_output_that_fails_is_an_error() {
    for errno in [libc::ENOSPC, libc::EDQUOT, libc::EIO, libc::EROFS] {
        for name in ["", "/dev/stdout", "/proc/self/fd/1"] {
            let mut child = scenario!(|| {
                let argument = |name| argument(name).to_str().unwrap().to_owned();
                let (name, errno) = (argument("NAME"), argument("ERRNO").parse().unwrap());
                let mut synced = match &name[..] {
                    "" => Draft::stdout(6),
                    name => Draft::create(name, 6),
                }
                .unwrap();
                synced.copy_from_slice(b"\nonce\n");
                refuse(libc::SYS_fsync, errno);
                let failed = synced.commit().unwrap_err();
                assert_eq!(failed.raw_os_error(), Some(errno));
                let path = if name.is_empty() {
                    "/dev/stdout"
                } else {
                    &name
                };
                let message = failed.error.to_string();
                assert_eq!(message, format!("fsync failed on {path}"));
                assert_eq!(failed.draft[..], *b"\nonce\n");
                // Without durability nothing is synced.
                let fast = Draft::options().durable(false);
                let mut fast = fast.create("/dev/stdout", 1).unwrap();
                fast.fill(b'\n');
                fast.commit().unwrap();
            });
            let child = child.argument("NAME", name);
            let outcome = child.argument("ERRNO", errno.to_string()).succeed();
            assert_eq!(outcome.stdout.matches("once").count(), 1, "{name}: {errno}");
        }
    }
}
