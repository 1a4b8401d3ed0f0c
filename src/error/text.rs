//! The text of errors: paths and hints.

use crate::sys;
use std::fmt::{self, Write};
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// A path as it is shown in every message: `""` if it is empty; control characters, and those that change the direction
/// of the text, are escaped (`\n`, `\0`), and so are bytes that are not UTF-8 (`\xff`).
pub(super) struct Shown<'a>(&'a Path);

pub(super) fn shown(path: &Path) -> Shown<'_> {
    Shown(path)
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_os_str().as_encoded_bytes();
        if bytes.is_empty() {
            return f.write_str("\"\"");
        }
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_invisible(c) {
                    write!(f, "{}", c.escape_debug())?;
                } else {
                    f.write_char(c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Characters that would move what is shown after them.
fn is_invisible(c: char) -> bool {
    let is_direction =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_direction || matches!(c, '\u{2028}' | '\u{2029}')
}

/// ` on PATH`, or nothing.
pub(super) struct On<'a>(pub(super) &'a Option<PathBuf>);

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, " on {}", shown(path)),
            None => Ok(()),
        }
    }
}

/// `: PATH`, or nothing.
pub(super) struct Colon<'a>(pub(super) &'a Option<PathBuf>);

impl fmt::Display for Colon<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, ": {}", shown(path)),
            None => Ok(()),
        }
    }
}

/// ` (N bytes)`, or nothing.
pub(super) struct Bytes(pub(super) Option<NonZeroUsize>);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(len) => write!(f, " ({len} bytes)"),
            None => Ok(()),
        }
    }
}

/// The operations that open or create a file, where the hint depends on what for.
pub(super) const OPEN_READ_WRITE: &str = "open for reading and writing";
pub(super) const OPEN_FOR_WRITING: &str = "open for writing";
pub(crate) const OPEN_DIRECTORY: &str = "open of the directory";
pub(super) const OPEN_IN_STICKY_DIRECTORY: &str = "open in a sticky directory";
pub(super) const CREATE_FILE: &str = "open of a new file in the directory";

/// The operations that [`Replace::InPlace`](crate::Replace::InPlace) does not need.
pub(crate) const REPLACE: &str = "replace by rename";
pub(crate) const COPY_RIGHTS: &str = "copy of owner, mode and attributes";

/// What the user can do about the error, where that is known.
pub(super) fn hint(operation: &str, path: &Option<PathBuf>, source: &io::Error) -> &'static str {
    let has_nul = |path: &PathBuf| path.as_os_str().as_encoded_bytes().contains(&0);
    if path.as_ref().is_some_and(has_nul) {
        return "; the path contains a NUL";
    }
    use io::ErrorKind as K;
    match (operation, source.kind()) {
        (OPEN_READ_WRITE, K::PermissionDenied) => {
            "; this user needs permission to read and write the file, and it must not be immutable or append-only"
        }
        (OPEN_FOR_WRITING, K::PermissionDenied) => {
            "; this user needs permission to write to the file, and it must not be immutable or append-only"
        }
        (OPEN_DIRECTORY, K::NotFound) => "; the directory is missing",
        (OPEN_DIRECTORY, K::PermissionDenied) => {
            "; this user needs permission to search the directory"
        }
        (CREATE_FILE, K::PermissionDenied) => {
            "; this user needs permission to write to the directory, and it must not be immutable or append-only"
        }
        (OPEN_IN_STICKY_DIRECTORY, K::PermissionDenied) => {
            "; another user has put it there: see fs.protected_regular, protected_fifos and protected_symlinks"
        }
        _ => hint_of_errno(operation, source),
    }
}

fn hint_of_errno(operation: &str, source: &io::Error) -> &'static str {
    match (operation, sys::errno_name(source)) {
        ("mmap" | "mremap", "ENOMEM") => {
            "; see vm.max_map_count, vm.overcommit_memory, ulimit -v and ulimit -d"
        }
        ("mmap (huge pages)", "ENOMEM") => "; reserve huge pages with vm.nr_hugepages",
        ("mlock", "ENOMEM" | "EAGAIN" | "EPERM") => "; raise RLIMIT_MEMLOCK (ulimit -l)",
        (REPLACE, "EACCES") => {
            "; this user may not write to the directory; Replace::InPlace can write over the file"
        }
        (REPLACE, "EBUSY") => "; it is a mount point; Replace::InPlace can write over the file",
        (COPY_RIGHTS, _) => {
            "; without DraftOptions::require_attributes they are left out; Replace::InPlace keeps them"
        }
        (REPLACE, _) => "; Replace::InPlace can write over the file",
        (_, "ETXTBSY") => "; the program is running",
        (_, "EMFILE") => "; raise RLIMIT_NOFILE (ulimit -n)",
        (_, "EFBIG") => "; see RLIMIT_FSIZE (ulimit -f) and the largest file of the file system",
        ("read" | "pread", "EBADF") => "; the descriptor is not open for reading",
        ("open", "EBADF") => "; the descriptor is not open for reading and writing",
        ("mmap", "EACCES") => "; the descriptor is not open for reading",
        ("lseek" | "mmap", "EBADF") => {
            "; the descriptor is closed, or only names the file (O_PATH)"
        }
        ("write", "EBADF") => "; the descriptor is not open for writing",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_takes_one_line() {
        for (path, text) in [
            ("", "\"\""),
            ("/a b/\"c\"\\é議", "/a b/\"c\"\\é議"),
            ("a\0b", "a\\0b"),
            (
                "a\nb\u{1b}[2Jc\u{7f}\u{9b}",
                "a\\nb\\u{1b}[2Jc\\u{7f}\\u{9b}",
            ),
            ("a\u{202e}b\u{2028}", "a\\u{202e}b\\u{2028}"),
        ] {
            assert_eq!(shown(Path::new(path)).to_string(), text);
        }
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xff\xc3"));
            assert_eq!(shown(path).to_string(), "a\\xff\\xc3");
        }
    }
}
