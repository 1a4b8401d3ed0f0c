//! What the errors of every type say: the operation, the path that the caller gave, and what to do.

use crate::support::child::{fork, scenario};
use crate::support::kernel::{limit, status};
use crate::support::user::{as_user, may_be_others};
use crate::support::{by_name, file_with, is_root, temp_dir};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::AtomicU8;
use stillmap::{Anonymous, Draft, Error, Exclusive, Live, Private, Shared, Snapshot};

/// The error of a call that fails.
fn error_of<T>(result: stillmap::Result<T>) -> Error {
    result.map(drop).expect_err("a call that fails")
}

/// `{}` in `expected` is the path.
#[track_caller]
fn assert_says<T>(result: stillmap::Result<T>, path: impl AsRef<Path>, expected: &str) {
    let error = error_of(result);
    assert_eq!(error.path(), Some(path.as_ref()), "{error}");
    let shown = path.as_ref().display().to_string();
    assert_eq!(error.to_string(), expected.replace("{}", &shown));
}

fn u8s(path: impl AsRef<Path>) -> stillmap::Result<Shared<[AtomicU8]>> {
    u8s_of(path, 100)
}

fn u8s_of(path: impl AsRef<Path>, len: usize) -> stillmap::Result<Shared<[AtomicU8]>> {
    Shared::create_slice(path, len)
}

#[test]
fn a_device_is_named_with_what_can_use_it() {
    let expected = "cannot be mapped: {}: it is not a regular file; Snapshot can read its bytes, and Draft can write to it";
    for device in ["/dev/zero", "/dev/null", "/dev/full"] {
        assert_says(Live::open(device), device, expected);
        assert_says(Exclusive::open(device), device, expected);
        assert_says(Draft::edit(device), device, expected);
        assert_says(Shared::<AtomicU8>::open(device), device, expected);
    }
}

#[test]
fn a_descriptor_that_cannot_be_read_says_so() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", b"old")
        .canonicalize()
        .unwrap();
    let (named, appended) = (by_name(&path), fs::File::options().append(true).open(&path));
    let appended = appended.unwrap();
    let only_named = "failed on {}; the descriptor is closed, or only names the file (O_PATH)";
    assert_says(
        Snapshot::from_fd(&named),
        &path,
        &format!("lseek {only_named}"),
    );
    assert_says(Live::from_fd(&named), &path, &format!("mmap {only_named}"));
    let unreadable = "mmap failed on {}; the descriptor is not open for reading";
    assert_says(Live::from_fd(&appended), &path, unreadable);
    let error = error_of(Snapshot::from_fd(&appended)).to_string();
    assert!(
        error.ends_with("; the descriptor is not open for reading"),
        "{error}"
    );
}

#[test]
fn a_missing_directory_is_missing() {
    let missing = "open of the directory failed on {}; the directory is missing";
    let dir = temp_dir();
    let path = dir.path().join("missing/file");
    assert_says(Draft::create(&path, 1), &path, missing);
    assert_says(u8s(&path), &path, missing);
    // Where a link leads into one.
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("missing/file", &link).unwrap();
    assert_says(Draft::create(&link, 1), &link, missing);
    // A file in place of the directory, and an empty path.
    let below = file_with(dir.path(), "file", b"x").join("below");
    let source = "open of the directory failed on {}";
    assert_says(Draft::create(&below, 1), &below, source);
    assert_eq!(
        error_of(Draft::create(&below, 1)).raw_os_error(),
        Some(libc::ENOTDIR)
    );
    assert_says(Draft::create("", 1), "", "open failed on \"\"");
}

const OUTSIDE: &str = "0 bytes at offset 4 are outside of 3 bytes: {}";

#[test]
fn more_bytes_than_there_are_addresses_are_too_large() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", b"old");
    let new = dir.path().join("new");
    let options = Draft::options();
    let in_place = options.replace(stillmap::Replace::InPlace);
    let mut draft = Draft::create(&path, 3).unwrap();
    let mut memory = Anonymous::new(3).unwrap();
    let file = file_with(dir.path(), "edited", b"old");
    let file = fs::File::options().read(true).write(true).open(file);
    let file = file.unwrap();
    // SAFETY: this test alone knows the file.
    let mut edited = unsafe { Exclusive::map_unguarded(&file) }.unwrap();
    // SAFETY: this test alone knows the file.
    let outside = unsafe { Exclusive::options().offset(4).map_unguarded(&file) };
    assert_says(outside, dir.path().join("edited"), OUTSIDE);
    for len in [usize::MAX, usize::MAX - 4096, isize::MAX as usize + 1] {
        let reserved = Exclusive::options().reserve(len);
        let in_memory = [
            error_of(memory.resize(len)),
            error_of(Anonymous::new(len)),
            error_of(Anonymous::shared(len)),
            error_of(Shared::<[AtomicU8]>::memfd_slice("memory", len)),
        ];
        let files = [
            error_of(Draft::create(&path, len)),
            error_of(Draft::create(&new, len)),
            error_of(options.sparse(true).create(&new, len)),
            error_of(options.memory_limit(0).create(&new, len)),
            error_of(in_place.create(&path, len)),
            error_of(Draft::create("/dev/null", len)),
            error_of(draft.resize(len)),
            error_of(edited.resize(len)),
            // SAFETY: this test alone knows the file.
            error_of(unsafe { reserved.map_unguarded(&file) }),
            error_of(u8s_of(&new, len)),
            error_of(u8s_of(&path, len)),
        ];
        for error in in_memory.iter().chain(&files) {
            let limit = isize::MAX as u64;
            assert!(
                matches!(error, Error::TooLarge { limit: l, .. } if *l == limit),
                "{len}: {error:?}"
            );
        }
        for error in files {
            assert!(error.path().is_some(), "{error}");
        }
    }
    assert_eq!(
        (draft.len(), memory.len(), &edited[..]),
        (3, 3, &b"old"[..])
    );
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// One text for a NUL, whichever type is asked; and no message of more than a line.
#[test]
fn control_characters_are_escaped() {
    let dir = temp_dir();
    for (name, shown) in [
        (&b"a\nb"[..], "a\\nb"),
        (b"\x1b[31mred", "\\u{1b}[31mred"),
        (b"not \xff UTF-8", "not \\xff UTF-8"),
        ("\u{202e}txt.exe".as_bytes(), "\\u{202e}txt.exe"),
    ] {
        let path = dir.path().join("missing").join(OsStr::from_bytes(name));
        for error in [
            error_of(Snapshot::open(&path)),
            error_of(Live::open(&path)),
            error_of(Exclusive::open(&path)),
            error_of(Draft::create(&path, 1)),
            error_of(u8s(&path)),
        ] {
            let text = error.to_string();
            assert!(text.contains(shown), "{text:?} does not contain {shown:?}");
            assert!(!text.contains(char::is_control), "{text:?}");
            let io = std::io::Error::from(error).to_string();
            assert!(!io.contains(char::is_control), "{io:?}");
        }
    }
    let path = Path::new("directory\0/file\0");
    let expected = "open failed on directory\\0/file\\0; the path contains a NUL";
    for error in [
        error_of(Snapshot::open(path)),
        error_of(Private::open(path)),
        error_of(Live::open(path)),
        error_of(Exclusive::open(path)),
        error_of(Shared::<AtomicU8>::open(path)),
    ] {
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
    for error in [error_of(Draft::create(path, 1)), error_of(u8s(path))] {
        let expected = expected.replace("open", "open of the directory");
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}

#[test]
fn memory_that_is_refused_is_named_by_its_length() {
    scenario!(|| {
        const LEN: usize = 1 << if usize::BITS == 64 { 40 } else { 29 };
        let mut memory = Anonymous::new(1 << 20).unwrap();
        limit(libc::RLIMIT_AS, status("VmSize") as u64 + (64 << 20));
        let refused = [
            error_of(Anonymous::new(LEN)),
            error_of(
                Anonymous::options()
                    .huge_pages(stillmap::HugePages::Transparent)
                    .allocate(LEN),
            ),
            error_of(Anonymous::shared(LEN)),
            error_of(memory.resize(LEN)),
        ];
        for error in refused {
            let text = error.to_string();
            assert!(text.contains(&LEN.to_string()), "{text}");
            assert_eq!(error.raw_os_error(), Some(libc::ENOMEM), "{text}");
        }
    })
    .succeed();
}

/// Each with what is missing.
#[test]
fn a_missing_permission_is_named() {
    if is_root() && !may_be_others() {
        return;
    }
    scenario!(|| {
        let dir = temp_dir();
        let set_mode = |path: &Path, mode| {
            fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        };
        set_mode(dir.path(), 0o755);
        let made = |name| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let (closed, fixed, sticky) = (made("closed"), made("fixed"), made("sticky"));
        let read_only = file_with(dir.path(), "read-only", b"x");
        let writable = file_with(&fixed, "writable", b"x");
        let hidden = closed.join("hidden");
        let new = fixed.join("new");
        let planted = file_with(&sticky, "planted", b"x");
        set_mode(&sticky, 0o1777);
        set_mode(&writable, 0o666);
        set_mode(&read_only, 0o444);
        set_mode(&closed, 0);
        set_mode(&fixed, 0o555);
        let check = || {
            let both = "open for reading and writing failed on {}; this user needs permission to read and write the file, \
                        and it must not be immutable or append-only";
            assert_says(Exclusive::open(&read_only), &read_only, both);
            assert_says(Shared::<AtomicU8>::open(&read_only), &read_only, both);
            assert_says(u8s(&read_only), &read_only, both);
            let write = "open for writing failed on {}; this user needs permission to write to the file, and it must not \
                         be immutable or append-only";
            assert_says(Draft::create(&read_only, 1), &read_only, write);
            let in_place = Draft::options().replace(stillmap::Replace::InPlace);
            assert_says(in_place.create(&read_only, 1), &read_only, write);
            let search = "open of the directory failed on {}; this user needs permission to search the directory";
            assert_says(Draft::create(&hidden, 1), &hidden, search);
            assert_says(u8s(&hidden), &hidden, search);
            let create = "open of a new file in the directory failed on {}; this user needs permission to write to the \
                          directory, and it must not be immutable or append-only";
            assert_says(Draft::create(&new, 1), &new, create);
            assert_says(u8s(&new), &new, create);
            let replace = "replace by rename failed on {}; this user may not write to the directory; Replace::InPlace can \
                           write over the file";
            assert_says(Draft::create(&writable, 1), &writable, replace);
            drop(in_place.create(&writable, 1).unwrap());
            true
        };
        let planted_is_refused = || {
            if fs::read_to_string("/proc/sys/fs/protected_regular").unwrap().trim() == "0" {
                return true;
            }
            let expected = "open in a sticky directory failed on {}; another user has put it there: see \
                            fs.protected_regular, protected_fifos and protected_symlinks";
            assert_says(Draft::create(&planted, 1), &planted, expected);
            assert_says(u8s(&planted), &planted, expected);
            true
        };
        if is_root() {
            std::os::unix::fs::chown(&planted, Some(2001), None).unwrap();
            std::os::unix::fs::chown(&sticky, Some(2002), None).unwrap();
            assert!(planted_is_refused());
            assert!(as_user(2001, 2001, check));
        } else {
            fork(|| assert!(check())).succeed();
        }
        set_mode(&closed, 0o700);
        set_mode(&fixed, 0o700);
    })
    .succeed();
}
