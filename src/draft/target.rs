//! What a path stands for, as `File::create` sees it: a name in a directory, or something to write to.

use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::sys::write;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) enum Target {
    /// A regular file, or nothing yet.
    Place(Place),
    /// Anything else: open for writing.
    Stream(File),
}

/// A name in a directory that is held open, so that it stays the same one whatever is renamed.
pub(super) struct Place {
    pub(super) dir: OwnedFd,
    pub(super) folder: PathBuf,
    pub(super) name: CString,
    /// What the caller calls it.
    pub(super) path: PathBuf,
}

/// As many links as the kernel follows, path_resolution(7).
const LINKS_MAX: usize = 40;

impl Target {
    pub(super) fn of(path: &Path, create_new: bool) -> Result<Self> {
        let error = |call, e| Error::os(call, Some(path), e);
        let is_there = match create_new {
            // A dangling link is in the way, too.
            true => fs::symlink_metadata(path),
            false => fs::metadata(path),
        };
        let regular = match is_there {
            Ok(_) if create_new => {
                let source = io::Error::from_raw_os_error(libc::EEXIST);
                return Err(error("open", source));
            }
            Ok(there) if there.is_dir() => {
                let path = Some(path.to_path_buf());
                return Err(Error::IsDirectory { path });
            }
            Ok(there) => there.is_file(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => true,
            Err(e) => return Err(error("stat", e)),
        };
        match follow(path)? {
            Followed::Descriptor(file) => Ok(Target::Stream(file)),
            Followed::Path(real) if regular => Place::of(path, &real).map(Target::Place),
            Followed::Path(_) => open_stream(path).map(Target::Stream),
        }
    }
}

/// A FIFO waits for its reader, as it does for everybody.
fn open_stream(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    // A terminal that we write to must not become the one that controls us.
    options.write(true).custom_flags(libc::O_NOCTTY);
    let file = options.open(path);
    file.map_err(|e| Error::os("open", Some(path), e))
}

enum Followed {
    Path(PathBuf),
    /// The path is a name for one of our own descriptors.
    Descriptor(File),
}

/// Follows the links that the last part of a path may be; what they lead to need not exist.
fn follow(path: &Path) -> Result<Followed> {
    let mut at = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        let Ok(link) = fs::read_link(&at) else {
            return Ok(Followed::Path(at));
        };
        let (folder, name) = split(&at);
        if let Some(number) = own_descriptor(&folder, name) {
            // The link says what it was called when it was opened; the descriptor knows what it is.
            let file = write::duplicate(number);
            let file = file.map_err(|e| Error::os("dup", Some(path), e))?;
            return Ok(Followed::Descriptor(File::from(file)));
        }
        at = folder.join(link);
    }
    let source = io::Error::from_raw_os_error(libc::ELOOP);
    Err(Error::os("open", Some(path), source))
}

/// The number of a descriptor of this process, if that is what a link in `folder` stands for: `/dev/stdout`,
/// `/dev/fd/1`, `/proc/self/fd/1` all lead there.
fn own_descriptor(folder: &Path, name: &OsStr) -> Option<i32> {
    let number = name.to_str()?.parse().ok()?;
    let ours = fs::canonicalize("/proc/self/fd").ok()?;
    (fs::canonicalize(folder).ok()? == ours).then_some(number)
}

/// At the last slash. `Path::file_name` would drop a `/.` at the end, which makes a path a directory.
fn split(path: &Path) -> (PathBuf, &OsStr) {
    let bytes = path.as_os_str().as_bytes();
    let (folder, name) = match bytes.iter().rposition(|&b| b == b'/') {
        Some(0) => (&b"/"[..], &bytes[1..]),
        Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
        None => (&b"."[..], bytes),
    };
    let folder = PathBuf::from(OsStr::from_bytes(folder));
    (folder, OsStr::from_bytes(name))
}

impl Place {
    fn of(path: &Path, real: &Path) -> Result<Self> {
        let (folder, name) = split(real);
        let path = path.to_path_buf();
        if path.as_os_str().is_empty() || matches!(name.as_bytes(), b"." | b"..") {
            let source = io::Error::from_raw_os_error(libc::ENOENT);
            return Err(Error::os("open", Some(&path), source));
        }
        if name.is_empty() {
            return Err(Error::IsDirectory { path: Some(path) });
        }
        let dir = write::open_directory(&folder);
        let dir = dir.map_err(|e| Error::os("open", Some(&folder), e))?;
        let name = write::c_string(name).map_err(|e| Error::os("open", Some(&path), e))?;
        let place = Place {
            dir,
            folder,
            name,
            path,
        };
        match write::may_write(place.dir.as_fd(), &place.name) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(place.error("open", e)),
            _ => Ok(place),
        }
    }

    pub(super) fn error(&self, call: &'static str, source: io::Error) -> Error {
        Error::os(call, Some(&self.path), source)
    }

    /// True if a store into a block that was granted cannot fail.
    pub(super) fn writes_in_place(&self, file: &File) -> bool {
        FileSystem::from_fd(file.as_fd()).is_ok_and(FileSystem::writes_in_place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_at_its_last_slash() {
        for (path, folder, name) in [
            ("a", ".", "a"),
            ("/a", "/", "a"),
            ("a/b", "a", "b"),
            ("a/b/.", "a/b", "."),
            ("a/", "a", ""),
            ("//a", "/", "a"),
        ] {
            let (f, n) = split(Path::new(path));
            assert_eq!((f.as_path(), n), (Path::new(folder), OsStr::new(name)));
        }
    }
}
