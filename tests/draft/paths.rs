//! Kinds of paths, and the owner of the new file.

use crate::support::bytes::{assert_same, pattern};
use crate::support::child::scenario;
use crate::support::kernel::{may_map, may_write};
use crate::support::user::{become_nobody, may_be_nobody, may_be_others};
use crate::support::{file_with, temp_dir};
use crate::{draft_of, names, stores};
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use stillmap::{Draft, Error};

#[test]
fn a_new_file_is_there_after_commit_and_not_before() {
    if !crate::has_unnamed(&std::env::temp_dir()) {
        return;
    }
    let dir = temp_dir();
    for (i, options) in stores(dir.path()).into_iter().enumerate() {
        for len in [0, 1, 4095, 4096, 4097, 300_000, 9 << 20] {
            let path = dir.path().join("new");
            let bytes = pattern(len as u64, len);
            let draft = draft_of(options, &path, &bytes).unwrap();
            assert!(names(dir.path()).is_empty(), "store {i}, {len} bytes");
            draft.commit().unwrap();
            assert_same(&fs::read(&path).unwrap(), &bytes, format_args!("store {i}"));
            assert_eq!(names(dir.path()), ["new"]);
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn an_old_file_is_replaced_at_commit_and_not_before() {
    let dir = temp_dir();
    for options in stores(dir.path()) {
        let path = file_with(dir.path(), "file", b"old bytes");
        let open = fs::File::open(&path).unwrap();
        let draft = draft_of(options, &path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old bytes");
        draft.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["file"]);
        // Processes that already have the file open keep the old contents.
        assert_eq!(std::io::read_to_string(open).unwrap(), "old bytes");
    }
}

#[test]
fn dropping_leaves_no_trace() {
    let dir = temp_dir();
    for options in stores(dir.path()) {
        let path = file_with(dir.path(), "file", b"old bytes");
        drop(draft_of(options, &path, &pattern(1, 100_000)).unwrap());
        drop(draft_of(options, &dir.path().join("other"), b"x").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old bytes");
        assert_eq!(names(dir.path()), ["file"]);
    }
}

#[test]
fn bytes_are_zero_at_first_and_where_it_grew() {
    let dir = temp_dir();
    for options in stores(dir.path()) {
        let mut draft = options.create(dir.path().join("zeros"), 10_000).unwrap();
        assert!(draft.iter().all(|&byte| byte == 0));
        draft.fill(7);
        draft.resize(5000).unwrap();
        draft.resize(20_000).unwrap();
        assert!(draft[..5000].iter().all(|&byte| byte == 7));
        assert!(draft[5000..].iter().all(|&byte| byte == 0));
        draft.commit().unwrap();
        let bytes = fs::read(dir.path().join("zeros")).unwrap();
        assert!(bytes.len() == 20_000 && bytes[4999..5001] == [7, 0]);
    }
}

#[test]
fn it_moves_from_memory_to_the_file_where_the_limit_is_crossed() {
    let dir = temp_dir();
    if !crate::can_map(dir.path()) {
        return;
    }
    let path = dir.path().join("large");
    let bytes = pattern(3, 3 << 20);
    let options = Draft::options().memory_limit(1 << 20);
    let mut draft = draft_of(options, &path, &bytes[..1 << 20]).unwrap();
    draft.resize(bytes.len()).unwrap();
    assert_same(&draft[..1 << 20], &bytes[..1 << 20], "crossing the limit");
    draft[1 << 20..].copy_from_slice(&bytes[1 << 20..]);
    draft.resize(2 << 20).unwrap();
    draft.commit().unwrap();
    assert_same(&fs::read(path).unwrap(), &bytes[..2 << 20], "after commit");
}

#[test]
fn a_link_is_followed_also_to_where_nothing_is_yet() {
    let dir = temp_dir();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    symlink("inner/there", dir.path().join("second")).unwrap();
    symlink("second", dir.path().join("first")).unwrap();
    let path = dir.path().join("first");
    for bytes in ["made", "replaced"] {
        draft_of(Draft::options(), &path, bytes.as_bytes())
            .unwrap()
            .commit()
            .unwrap();
        assert_eq!(fs::read_to_string(inner.join("there")).unwrap(), bytes);
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(names(&inner), ["there"]);
    }
    symlink("circle", dir.path().join("circle")).unwrap();
    let error = Draft::create(dir.path().join("circle"), 1).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
}

#[test]
fn what_cannot_become_a_file_is_an_error_of_create() {
    let dir = temp_dir();
    let file = file_with(dir.path(), "file", b"x");
    let path = |name: &str| dir.path().join(name);
    for name in ["", ".", "..", "new/", "new/.", "file/..", "no/such/.."] {
        let error = Draft::create(path(name), 1).unwrap_err();
        // The same error as File::create.
        let std = fs::File::create(path(name)).unwrap_err();
        assert_eq!(error.kind(), std.kind(), "{name}: {error}, {std}");
    }
    for path in [
        path("no/such"),
        path("file/inside"),
        path("a\0b"),
        "".into(),
    ] {
        let error = Draft::create(&path, 1).unwrap_err();
        let std = fs::File::create(&path).unwrap_err();
        assert_eq!(error.kind(), std.kind(), "{path:?}: {error}, {std}");
    }
    let long = path(&"n".repeat(300));
    assert!(Draft::create(&long, 1).is_err() || Draft::create(&long, 1).unwrap().commit().is_err());
    assert_eq!(names(dir.path()), ["file"]);
    assert_eq!(fs::read(file).unwrap(), b"x");
}

#[test]
fn names_of_every_length_and_any_bytes_work() {
    use std::os::unix::ffi::OsStrExt;
    let dir = temp_dir();
    for name in [
        &b"n"[..],
        &[b'n'; 240],
        &[b'n'; 255],
        &[0xff; 255],
        b"\n \xfe",
    ] {
        let path = dir.path().join(std::ffi::OsStr::from_bytes(name));
        for bytes in [b"one", b"two"] {
            let draft = draft_of(Draft::options(), &path, bytes).unwrap();
            draft.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
}

#[test]
fn rights_are_asked_for_at_create() {
    if !may_be_nobody() {
        return;
    }
    let dir = temp_dir();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    file_with(&closed, "file", b"old");
    file_with(dir.path(), "read-only", b"old");
    fs::set_permissions(&closed, Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(dir.path().join("read-only"), Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let mut child = scenario!(|| {
        let dir = std::path::PathBuf::from(crate::support::child::argument("DIR"));
        become_nobody();
        for name in ["closed/new", "closed/file", "read-only"] {
            let error = Draft::create(dir.join(name), 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{name}: {error}");
        }
        draft_of(Draft::options(), &dir.join("mine"), b"x")
            .unwrap()
            .commit()
            .unwrap();
    });
    child.argument("DIR", dir.path()).succeed();
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(names(dir.path()), ["closed", "mine", "read-only"]);
    assert_eq!(names(&closed), ["file"]);
}

#[test]
fn a_directory_that_may_be_searched_but_not_listed_will_do() {
    if !may_be_nobody() {
        return;
    }
    let dir = temp_dir();
    let blind = dir.path().join("blind");
    fs::create_dir(&blind).unwrap();
    fs::set_permissions(&blind, Permissions::from_mode(0o333)).unwrap();
    let mut child = scenario!(|| {
        let path = std::path::PathBuf::from(crate::support::child::argument("PATH"));
        become_nobody();
        for bytes in [b"one", b"two"] {
            let draft = draft_of(Draft::options(), &path, bytes).unwrap();
            draft.commit().unwrap();
        }
    });
    child.argument("PATH", blind.join("file")).succeed();
    fs::set_permissions(&blind, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(fs::read(blind.join("file")).unwrap(), b"two");
    assert_eq!(names(&blind), ["file"]);
}

#[test]
fn the_mode_is_the_one_that_file_create_would_leave() {
    scenario!(|| {
        let dir = temp_dir();
        for umask in [0o000, 0o022, 0o077, 0o027] {
            // SAFETY: plain numbers; this process has one thread.
            unsafe { libc::umask(umask) };
            let (ours, std) = (dir.path().join("ours"), dir.path().join("std"));
            let mode = |path| fs::metadata(path).unwrap().mode();
            let commit = |options: stillmap::DraftOptions| {
                draft_of(options, &ours, b"x").unwrap().commit().unwrap();
            };
            commit(Draft::options());
            fs::File::create(&std).unwrap();
            assert_eq!(mode(&ours), mode(&std), "new, umask {umask:o}");
            for old in [0o600, 0o640, 0o755, 0o666, 0o4755] {
                for path in [&ours, &std] {
                    fs::set_permissions(path, Permissions::from_mode(old)).unwrap();
                }
                fs::File::create(&std).unwrap();
                commit(Draft::options());
                assert_eq!(mode(&ours), mode(&std), "over {old:o}, umask {umask:o}");
            }
            commit(Draft::options().mode(0o777));
            assert_eq!(mode(&ours) & 0o7777, 0o777, "explicit");
            fs::remove_file(&ours).unwrap();
            commit(Draft::options().mode(0o624));
            assert_eq!(mode(&ours) & 0o7777, 0o624, "explicit and new");
            fs::remove_file(&ours).unwrap();
            fs::remove_file(&std).unwrap();
        }
    })
    .succeed();
}

#[test]
fn the_owner_stays_where_we_may_give_files_away() {
    if !may_be_others() {
        return;
    }
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", b"old");
    std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let draft = draft_of(Draft::options(), &path, b"new").unwrap();
    draft.commit().unwrap();
    let now = fs::metadata(&path).unwrap();
    assert_eq!((now.uid(), now.gid()), (1234, 4321));
    assert_eq!(now.mode() & 0o7777, 0o640);
}

#[test]
fn rights_of_a_foreign_group_do_not_become_ours() {
    if !may_be_others() {
        return;
    }
    let dir = temp_dir();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let path = file_with(dir.path(), "file", b"old");
    std::os::unix::fs::chown(&path, Some(65534), Some(4321)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o660)).unwrap();
    let mut child = scenario!(|| {
        let path = std::path::PathBuf::from(crate::support::child::argument("PATH"));
        become_nobody();
        let draft = draft_of(Draft::options(), &path, b"new").unwrap();
        draft.commit().unwrap();
    });
    child.argument("PATH", &path).succeed();
    let now = fs::metadata(&path).unwrap();
    assert_eq!(
        (now.uid(), now.gid(), now.mode() & 0o7777),
        (65534, 65534, 0o600)
    );
}

#[test]
fn of_many_that_make_a_new_file_one_does() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    for round in 0..100_u32 {
        let winners: Vec<u8> = std::thread::scope(|scope| {
            let drafts: Vec<_> = (0..4_u8)
                .map(|me| {
                    let options = Draft::options().create_new(true).durable(false);
                    (me, draft_of(options, &path, &[me; 100]).unwrap())
                })
                .collect();
            let threads: Vec<_> = drafts
                .into_iter()
                .map(|(me, draft)| scope.spawn(move || (me, draft.commit())))
                .collect();
            let ended = threads.into_iter().map(|thread| thread.join().unwrap());
            ended
                .filter_map(|(me, committed)| match committed {
                    Ok(()) => Some(me),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
                        None
                    }
                })
                .collect()
        });
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(fs::read(&path).unwrap(), [winners[0]; 100]);
        assert_eq!(names(dir.path()), ["file"]);
        let again = Draft::options().create_new(true).create(&path, 1);
        assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
        fs::remove_file(&path).unwrap();
    }
    symlink("nowhere", &path).unwrap();
    let link = Draft::options().create_new(true).create(&path, 1);
    assert_eq!(link.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn many_that_replace_one_file_all_do() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", &[9; 100]);
    std::thread::scope(|scope| {
        for me in 0..4_u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..100 {
                    let options = Draft::options().durable(false);
                    let draft = draft_of(options, path, &[me; 100]).unwrap();
                    draft.commit().unwrap();
                    let seen = fs::read(path).unwrap();
                    assert!(seen.len() == 100 && seen.iter().all(|&b| b == seen[0] && b < 4));
                }
            });
        }
    });
    assert_eq!(names(dir.path()), ["file"]);
}

#[test]
fn other_hard_links_keep_the_old_bytes() {
    let dir = temp_dir();
    let path = file_with(dir.path(), "file", b"old");
    fs::hard_link(&path, dir.path().join("other")).unwrap();
    let draft = draft_of(Draft::options(), &path, b"new").unwrap();
    draft.commit().unwrap();
    assert_eq!(fs::read(dir.path().join("other")).unwrap(), b"old");
    assert_eq!(fs::read(&path).unwrap(), b"new");
}

#[test]
fn a_sparse_draft_takes_space_where_it_was_touched() {
    const LEN: u64 = 5 << 30;
    if !may_write(LEN) || !may_map(LEN) {
        return;
    }
    let dir = temp_dir();
    let path = dir.path().join("sparse");
    let mut draft = Draft::options()
        .sparse(true)
        .create(&path, LEN as usize)
        .unwrap();
    const GB: u64 = 1 << 30;
    let places = [0, 3 * GB, 4 * GB - 1, 4 * GB, LEN - 1];
    for (value, at) in (1..).zip(places) {
        draft[at as usize] = value;
    }
    draft.commit().unwrap();
    let there = fs::metadata(&path).unwrap();
    assert_eq!(there.len(), 5 << 30);
    assert!(there.blocks() * 512 < 1 << 20, "{} blocks", there.blocks());
    for (value, at) in (1..).zip(places) {
        let window = stillmap::Snapshot::options().offset(at).len(1);
        assert_eq!(window.open(&path).unwrap()[..], [value], "at {at}");
    }
}

#[test]
fn errors_name_operation_and_path() {
    let error = Draft::create("/no/such/folder/file", 1).unwrap_err();
    let expected = "open of the directory failed on /no/such/folder/file; the directory is missing";
    assert_eq!(error.to_string(), expected);
    let dir = temp_dir();
    let error = Draft::create(dir.path(), 1).unwrap_err();
    assert!(matches!(error, Error::IsDirectory { path: Some(p), .. } if p == dir.path()));
}
