//! What other programs see of a commit: docs/durability.md has the table.

use crate::draft_of;
use crate::support::child::scenario;
use crate::support::exclusive::{any_system, open};
use crate::support::{file_with, skip, temp_dir};
use std::ffi::{CString, OsString};
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use stillmap::{Draft, Replace};

/// Runs a program in a directory; what it wrote, or `None`, after saying so, if it is not installed.
fn run(dir: &Path, program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(dir)
        .env("HOME", dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .output();
    let Ok(output) = output else {
        skip(format_args!("{program} is not installed"));
        return None;
    };
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn commit(path: &Path, replace: Replace, bytes: &[u8]) {
    let options = Draft::options().replace(replace);
    draft_of(options, path, bytes).unwrap().commit().unwrap();
}

#[test]
fn git_sees_the_new_bytes_and_no_change_of_mode() {
    for replace in [Replace::Rename, Replace::InPlace] {
        let dir = temp_dir();
        let path = file_with(dir.path(), "script", b"#!/bin/sh\nold\n");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let git = |arguments: &[&str]| run(dir.path(), "git", arguments);
        if git(&["init", "-q", "."]).is_none() {
            return;
        }
        git(&["add", "script"]);
        let who = ["-c", "user.name=a", "-c", "user.email=a@example.org"];
        git(&[&who[..], &["commit", "-q", "-m", "first"]].concat());
        commit(&path, replace, b"#!/bin/sh\nnew\n");
        let status = git(&["status", "--porcelain"]).unwrap();
        assert_eq!(status, " M script\n", "{replace:?}");
        let diff = git(&["diff"]).unwrap();
        assert!(
            diff.contains("-old\n+new\n") && !diff.contains("mode"),
            "{diff}"
        );
        // The bytes that git knows: nothing has changed.
        commit(&path, replace, b"#!/bin/sh\nold\n");
        assert_eq!(git(&["status", "--porcelain"]).unwrap(), "", "{replace:?}");
        // git replaces the file in its turn.
        commit(&path, replace, b"#!/bin/sh\nnew\n");
        let draft = draft_of(Draft::options().replace(replace), &path, b"last\n").unwrap();
        git(&["checkout", "-q", "script"]);
        assert_eq!(fs::read(&path).unwrap(), b"#!/bin/sh\nold\n");
        draft.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"last\n", "{replace:?}");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{replace:?}");
    }
}

/// An editor that writes a new file and renames it (`sed -i`, vim with `backupcopy=no`), and one that writes over the
/// file (vim with `backupcopy=yes`).
#[test]
fn editors_and_drafts_take_turns() {
    let editors: [(&str, &[&str]); 3] = [
        ("sed", &["-i", "s/one/two/", "file"]),
        (
            "vim",
            &[
                "-u",
                "NONE",
                "-es",
                "-c",
                "set backupcopy=no",
                "-c",
                "%s/one/two/",
                "-c",
                "wq",
                "file",
            ],
        ),
        (
            "vim",
            &[
                "-u",
                "NONE",
                "-es",
                "-c",
                "set backupcopy=yes",
                "-c",
                "%s/one/two/",
                "-c",
                "wq",
                "file",
            ],
        ),
    ];
    for (program, arguments) in editors {
        for replace in [Replace::Rename, Replace::InPlace] {
            let dir = temp_dir();
            let path = file_with(dir.path(), "file", b"old\n");
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
            commit(&path, replace, b"one\n");
            // One is written while the editor saves; it knows nothing of that, and comes last.
            let late = draft_of(Draft::options().replace(replace), &path, b"late\n").unwrap();
            if run(dir.path(), program, arguments).is_none() {
                break;
            }
            assert_eq!(fs::read(&path).unwrap(), b"two\n", "{program}");
            let mut edited = Draft::options().replace(replace).edit(&path).unwrap();
            assert_eq!(edited[..], *b"two\n");
            edited[0] = b'T';
            edited.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"Two\n", "{program}");
            late.commit().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"late\n", "{program}");
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o640, "{program}, {replace:?}");
            assert_eq!(crate::names(dir.path()), ["file"], "{program}");
        }
    }
}

#[test]
fn an_editor_waits_for_a_file_that_is_edited_in_place() {
    scenario!(|| {
        let Some(system) = any_system() else { return };
        let path = file_with(system.path(), "file", b"one\n");
        let mut file = open(&path);
        let sed = Command::new("sed")
            .args(["-i", "s/two/three/"])
            .arg(&path)
            .spawn();
        let Ok(mut sed) = sed else {
            return skip("sed is not installed");
        };
        while !file.has_waiter() {
            std::thread::yield_now();
        }
        file.copy_from_slice(b"two\n");
        file.close().unwrap();
        assert!(sed.wait().unwrap().success());
        assert_eq!(fs::read(&path).unwrap(), b"three\n");
    })
    .succeed();
}

/// An inotify(7) watch.
pub struct Watch(File);

impl Watch {
    pub fn new(path: &Path) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: takes a number.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: a C string; not what commits do for themselves: opening and reading.
        let watch = unsafe {
            let all = libc::IN_ALL_EVENTS & !(libc::IN_OPEN | libc::IN_ACCESS | libc::IN_CLOSE);
            libc::inotify_add_watch(fd, path.as_ptr(), all)
        };
        assert!(watch >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: made above.
        Watch(unsafe { File::from_raw_fd(fd) })
    }

    /// What has happened since the last call, each kind once: the bits of inotify(7), and the names.
    pub fn seen(&self) -> (u32, Vec<OsString>) {
        let (mut mask, mut names, mut buffer) = (0, Vec::new(), [0; 64 << 10]);
        while let Ok(len) = (&self.0).read(&mut buffer) {
            let mut rest = &buffer[..len];
            while let [
                _,
                _,
                _,
                _,
                m0,
                m1,
                m2,
                m3,
                _,
                _,
                _,
                _,
                l0,
                l1,
                l2,
                l3,
                tail @ ..,
            ] = rest
            {
                mask |= u32::from_ne_bytes([*m0, *m1, *m2, *m3]);
                let len = u32::from_ne_bytes([*l0, *l1, *l2, *l3]) as usize;
                let name: Vec<_> = tail[..len]
                    .iter()
                    .copied()
                    .take_while(|&b| b != 0)
                    .collect();
                if !name.is_empty()
                    && !names
                        .iter()
                        .any(|known: &OsString| known.as_bytes() == name)
                {
                    names.push(OsString::from_vec(name));
                }
                rest = &tail[len..];
            }
        }
        (mask, names)
    }
}

#[test]
fn watches_see_what_the_table_says() {
    // Alone: the old file is deleted once no child has it open that another test is starting.
    scenario!(|| {
        let dir = temp_dir();
        let path = file_with(dir.path(), "file", b"old");
        let (on_file, on_dir) = (Watch::new(&path), Watch::new(dir.path()));
        let has = |mask: u32, wanted: u32| mask & wanted == wanted;

        commit(&path, Replace::InPlace, b"in place");
        assert!(has(on_file.seen().0, libc::IN_MODIFY));
        let (mask, names) = on_dir.seen();
        assert!(has(mask, libc::IN_MODIFY), "{mask:x}");
        assert_eq!(names, ["file"]);

        commit(&path, Replace::Rename, b"renamed");
        let (mask, _) = on_file.seen();
        assert!(
            has(mask, libc::IN_ATTRIB | libc::IN_DELETE_SELF),
            "{mask:x}"
        );
        let (mask, names) = on_dir.seen();
        assert!(has(mask, libc::IN_MOVED_TO), "{mask:x}");
        assert!(names.iter().any(|name| name == "file"), "{names:?}");
        // The watch was for the old file.
        commit(&path, Replace::Rename, b"again");
        assert_eq!(on_file.seen().0 & !libc::IN_IGNORED, 0);
        on_dir.seen();

        if crate::has_unnamed(dir.path()) {
            commit(&dir.path().join("new"), Replace::Rename, b"new");
            let (mask, names) = on_dir.seen();
            assert!(has(mask, libc::IN_CREATE), "{mask:x}");
            assert_eq!(without_unnamed(names), ["new"]);
        }
        // Of a draft that was dropped nothing else is seen.
        drop(draft_of(Draft::options(), &path, b"dropped").unwrap());
        let (_, names) = on_dir.seen();
        assert!(without_unnamed(names).is_empty());
    })
    .succeed();
}

/// The kernel tells a watch on the directory of writes to an unnamed file, too, by a name as `#1234`.
fn without_unnamed(names: Vec<OsString>) -> Vec<OsString> {
    let is_name = |name: &OsString| !name.as_bytes().starts_with(b"#");
    names.into_iter().filter(is_name).collect()
}
