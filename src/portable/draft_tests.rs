//! Drafts; run on Linux, where both kinds are compiled.

use super::tests::{directory, file_of};
use super::{Draft, Snapshot};
use crate::Replace;
use std::fs;
use std::io::{Seek, SeekFrom, Write};

#[test]
#[cfg_attr(miri, ignore = "Miri has no renameat2")]
fn a_draft_replaces_the_file_when_it_is_committed() {
    let directory = directory();
    let path = file_of(&directory, b"old");
    let mut draft = Draft::create(&path, 3).unwrap();
    draft.copy_from_slice(b"new");
    drop(draft);
    assert_eq!(fs::read(&path).unwrap(), b"old", "dropped");
    let mut draft = Draft::edit(&path).unwrap();
    draft.seek(SeekFrom::End(2)).unwrap();
    draft.write_all(b"er").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old", "not committed yet");
    draft.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old\0\0er");
    let in_place = Draft::options()
        .replace(Replace::InPlace)
        .create(&path, 1)
        .unwrap();
    in_place.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), [0]);
    let taken = Draft::options().create_new(true).create(&path, 2).unwrap();
    let failed = taken.commit().unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::AlreadyExists);
    failed
        .draft
        .commit_to(directory.path().join("other"))
        .unwrap();
    let mut names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["file", "other"], "no temporary file is left");
}

/// Case: a link to a file that did not exist yet was replaced by the file, and `..` of a path was that of `commit`.
#[test]
#[cfg(unix)]
#[cfg_attr(miri, ignore = "Miri has no renameat2")]
fn a_draft_follows_a_link_to_a_new_file() {
    let directory = directory();
    let [link, target] = ["link", "target"].map(|name| directory.path().join(name));
    std::os::unix::fs::symlink("target", &link).unwrap();
    let new = Draft::options().create_new(true).create(&link, 1);
    let refused = new.unwrap().commit().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::AlreadyExists);
    Draft::create(&link, 1).unwrap().commit().unwrap();
    assert_eq!(fs::read(&target).unwrap(), [0]);
    assert!(link.is_symlink());
    std::os::unix::fs::symlink("loop", directory.path().join("loop")).unwrap();
    let endless = Draft::create(directory.path().join("loop"), 1).unwrap_err();
    assert_eq!(endless.raw_os_error(), Some(libc::ELOOP));
    // Another working directory at `commit` makes no difference.
    let relative = Draft::create("no such file", 0).unwrap();
    let here = std::env::current_dir().unwrap().join("no such file");
    assert!(format!("{relative:?}").contains(&format!("{here:?}")));
}

/// A path of /dev/fd that no other path leads to.
#[test]
#[cfg(target_os = "linux")]
#[cfg_attr(miri, ignore = "Miri has no /dev/fd")]
fn a_draft_is_written_to_a_pipe_by_its_descriptor() {
    use std::io::Read;
    use std::os::fd::AsRawFd;
    let (mut reader, writer) = std::io::pipe().unwrap();
    let path = format!("/dev/fd/{}", writer.as_raw_fd());
    Draft::create(path, 3).unwrap().commit().unwrap();
    drop(writer);
    let mut found = Vec::new();
    reader.read_to_end(&mut found).unwrap();
    assert_eq!(found, [0, 0, 0]);
}

/// Case: the file was emptied first, so a full disk, or a reader at that moment, found none of the old bytes.
#[test]
#[cfg_attr(miri, ignore = "slow")]
fn a_file_that_is_written_in_place_is_never_empty() {
    const LEN: usize = 32 << 20;
    let directory = directory();
    let path = file_of(&directory, &vec![1; LEN]);
    let draft = Draft::options().replace(Replace::InPlace);
    let draft = draft.create(&path, LEN).unwrap();
    let committed = std::thread::spawn(|| draft.commit().unwrap());
    while !committed.is_finished() {
        assert_eq!(fs::metadata(&path).unwrap().len(), LEN as u64);
    }
    committed.join().unwrap();
    for len in [LEN + 5, 3, 0] {
        let draft = Draft::options().replace(Replace::InPlace);
        let mut draft = draft.create(&path, len).unwrap();
        draft.fill(len as u8);
        draft.commit().unwrap();
        assert!(fs::read(&path).unwrap() == vec![len as u8; len]);
    }
}

/// Case: the fsync(2) of the directory failed when the file had been replaced.
#[cfg(target_os = "linux")]
#[test]
#[cfg_attr(miri, ignore = "Miri has no users")]
fn a_directory_that_cannot_be_synced_is_an_error_before_the_file_is_replaced() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let path = file_of(&directory, b"old");
    for (name, mode) in [(&path, 0o666), (&directory.path().into(), 0o333)] {
        fs::set_permissions(name, fs::Permissions::from_mode(mode)).unwrap();
    }
    let as_nobody = std::thread::spawn(move || {
        // SAFETY: it changes by which user this thread, which ends here, opens files.
        #[allow(unsafe_code)]
        unsafe {
            libc::setfsuid(65534)
        };
        let options = Draft::options();
        let failed = options.create(&path, 1).unwrap().commit().unwrap_err();
        assert_eq!(failed.kind(), std::io::ErrorKind::PermissionDenied);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let either = options.replace(Replace::RenameOrInPlace);
        either.create(&path, 1).unwrap().commit().unwrap();
        let mut draft = options.durable(false).create(&path, 2).unwrap();
        draft.fill(7);
        draft.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), [7, 7]);
    });
    as_nobody.join().unwrap();
}

/// Case: any failure of the rename, also of a new file that another program had made meanwhile, was followed by an overwrite.
#[test]
#[cfg_attr(miri, ignore = "Miri has no renameat2")]
fn a_draft_that_must_be_new_overwrites_nothing() {
    let directory = directory();
    for how in [Replace::Rename, Replace::InPlace, Replace::RenameOrInPlace] {
        let path = directory.path().join(format!("{how:?}"));
        let options = Draft::options().create_new(true).replace(how);
        let draft = options.create(&path, 1).unwrap();
        fs::write(&path, "of another program").unwrap();
        let failed = draft.commit().unwrap_err();
        assert_eq!(failed.kind(), std::io::ErrorKind::AlreadyExists, "{how:?}");
        assert_eq!(fs::read(&path).unwrap(), b"of another program", "{how:?}");
    }
}

/// Case: the temporary file of a private file was open to all users, and the mode of the options was not used.
#[test]
#[cfg(unix)]
#[cfg_attr(miri, ignore = "Miri has no modes")]
fn the_bytes_of_a_private_file_are_never_public() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    let path = file_of(&directory, b"secret");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let modes = || {
        let entries = fs::read_dir(directory.path()).unwrap();
        let found = entries.filter_map(|entry| entry.unwrap().metadata().ok());
        let modes = found.map(|found| found.permissions().mode() & 0o777);
        modes.collect::<Vec<_>>()
    };
    let draft = Draft::create(&path, 32 << 20).unwrap();
    let committed = std::thread::spawn(|| draft.commit().unwrap());
    while !committed.is_finished() {
        assert!(modes().iter().all(|&mode| mode == 0o600));
    }
    committed.join().unwrap();
    assert_eq!(modes(), [0o600]);
    let draft = Draft::options().mode(0o400).create(&path, 1).unwrap();
    draft.commit().unwrap();
    assert_eq!(modes(), [0o400]);
}

/// Case: the new file belonged to this process, with the set-user-ID bit of another user's file.
#[test]
#[cfg(unix)]
#[cfg_attr(miri, ignore = "Miri has no owners")]
fn a_replaced_file_keeps_owner_group_and_mode() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let directory = directory();
    let path = file_of(&directory, b"old");
    if chown(&path, Some(1000), Some(1001)).is_err() {
        return eprintln!("skipped: only root gives files away");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o4750)).unwrap();
    Draft::edit(&path).unwrap().commit().unwrap();
    let kept = fs::metadata(&path).unwrap();
    let rights = (kept.uid(), kept.gid(), kept.mode() & 0o7777);
    assert_eq!(rights, (1000, 1001, 0o4750));
}
