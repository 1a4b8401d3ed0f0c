//! The file behind a draft before it has its name: reserving its space, and giving it the name.

use super::DraftOptions;
use super::target::Place;
use crate::error::{Error, Result};
use crate::sys::publish::{self, Step};
use crate::sys::write::{self, Entry};
use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;
use tempfile::NamedTempFile;

/// What [`File::create`] gives, less the umask.
const MODE: u32 = 0o666;

/// The end of every name that may be seen beside a target. A program that finds one may remove it, unless a `commit`
/// is under way.
const SUFFIX: &str = ".stillmap-draft";

/// The longest name of a file, in bytes (`NAME_MAX`, limits.h).
const NAME_MAX: usize = 255;

/// A name in passing is held for some microseconds. Whoever holds it for so many milliseconds does not go on.
const PATIENCE: u32 = 100;

pub(super) struct Pending {
    file: Unpublished,
    place: Place,
    /// All its bytes have blocks.
    reserved: bool,
}

enum Unpublished {
    Unnamed(File),
    /// Where nothing else can be had.
    Hidden(NamedTempFile),
}

impl Pending {
    pub(super) fn new(place: Place, mode: Option<u32>) -> Result<Self> {
        let mode = mode.unwrap_or(MODE);
        let file = match write::unnamed(place.dir.as_fd(), mode) {
            Ok(file) => Unpublished::Unnamed(file),
            Err(e) if write::is_unnamed_unknown(&e) => Unpublished::Hidden(hidden(&place, mode)?),
            Err(e) => return Err(place.error("open", e)),
        };
        Ok(Pending {
            file,
            place,
            reserved: true,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.place.path
    }

    pub(super) fn file(&self) -> &File {
        match &self.file {
            Unpublished::Unnamed(file) => file,
            Unpublished::Hidden(named) => named.as_file(),
        }
    }

    /// Reserves space for the bytes `old..new`, and makes them part of the file; or leaves it as it was.
    pub(super) fn reserve(&mut self, old: usize, new: usize) -> Result<()> {
        let (old, new) = (old as u64, new as u64);
        let Err(error) = write::allocate(self.file().as_fd(), old, new) else {
            return Ok(());
        };
        if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) {
            self.reserved = false;
            let sized = write::set_len(self.file(), new);
            return sized.map_err(|e| self.place.error("ftruncate", e));
        }
        let _ = self.file().set_len(old);
        Err(self.place.error("fallocate", error))
    }

    /// Makes the file shorter, and gives its space back.
    pub(super) fn cut(&self, len: usize) -> Result<()> {
        let cut = self.file().set_len(len as u64);
        cut.map_err(|e| self.place.error("ftruncate", e))
    }

    /// The file, if bytes can be stored into it without a signal on a full disk, and nobody else can open it.
    pub(super) fn mappable(&self, options: &DraftOptions) -> Result<&File> {
        match &self.file {
            Unpublished::Unnamed(file) if self.reserved && self.place.writes_in_place(file) => {
                Ok(file)
            }
            _ => Err(Error::TooLarge {
                path: Some(self.place.path.clone()),
                limit: options.memory_limit_or_default(),
            }),
        }
    }

    /// Durable, visible, and durably visible.
    pub(super) fn publish(self, options: &DraftOptions) -> Result<()> {
        let Pending { file, place, .. } = self;
        let dir = place.dir.as_fd();
        let old = write::entry(dir, &place.name).ok();
        let old = old.filter(|old| old.mode & libc::S_IFMT == libc::S_IFREG);
        let file = match file {
            Unpublished::Unnamed(file) => {
                prepare(&file, &place, old, options)?;
                name(&file, &place, options.create_new)?;
                file
            }
            Unpublished::Hidden(named) => {
                prepare(named.as_file(), &place, old, options)?;
                rename(named, &place, options.create_new)?
            }
        };
        if options.sync {
            sync_directory(&file, &place)?;
        }
        Ok(())
    }
}

fn hidden(place: &Place, mode: u32) -> Result<NamedTempFile> {
    let prefix = passing_name(place, Some("."));
    let made = tempfile::Builder::new()
        .prefix(OsStr::from_bytes(prefix.as_bytes()))
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(&place.folder);
    made.map_err(|e| place.error("open", e))
}

/// Mode, owner, and the bytes on the disk.
fn prepare(file: &File, place: &Place, old: Option<Entry>, options: &DraftOptions) -> Result<()> {
    if let (Some(old), None) = (old, options.mode) {
        take_over(file, old).map_err(|e| place.error("fchmod", e))?;
    }
    if options.sync {
        file.sync_all().map_err(|e| place.error("fsync", e))?;
    }
    Ok(())
}

/// Owner and mode of the file that is replaced.
fn take_over(file: &File, old: Entry) -> io::Result<()> {
    let own = file.metadata()?;
    let mut mode = old.mode & 0o7777;
    if own.uid() != old.uid {
        // Giving files away is for root.
        let _ = std::os::unix::fs::fchown(file, Some(old.uid), None);
    }
    if own.gid() != old.gid && std::os::unix::fs::fchown(file, None, Some(old.gid)).is_err() {
        // Rights of a group we are not in must not become rights of our own group.
        mode &= !0o070 | (mode & 0o007) << 3;
    }
    let own = file.metadata()?;
    if own.uid() != old.uid || own.gid() != old.gid {
        // Nor may a program run with our rights because it had those of somebody else.
        mode &= 0o1777;
    }
    if own.mode() & 0o7777 != mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    match mode & 0o6000 {
        0 => Ok(()),
        // Who writes to a program that runs with the rights of its owner takes these away, unless he has CAP_FSETID;
        // and so does a truncation, here to the size that it has.
        _ => file.set_len(own.len()),
    }
}

/// Gives an unnamed file its name, replacing what has it.
fn name(file: &File, place: &Place, create_new: bool) -> Result<()> {
    let dir = place.dir.as_fd();
    match publish::link(file.as_fd(), dir, &place.name) {
        Err(e) if !create_new && e.raw_os_error() == Some(libc::EEXIST) => {}
        other => return other.map_err(|e| place.error("linkat", e)),
    }
    // The lock tells others that the name in passing is in use; where there are no locks, nobody removes it.
    let _ = write::try_lock(file.as_fd());
    let mut passing = passing_name(place, None);
    for _ in 0..PATIENCE {
        match publish::replace(file.as_fd(), dir, &passing, &place.name) {
            Ok(()) => return Ok(()),
            Err((Step::Link, e)) if e.raw_os_error() == Some(libc::EEXIST) => {
                if id_of_name(place, &passing) == id(file) {
                    // Ours: somebody killed the helper, and nobody but it.
                    let renamed = publish::rename(dir, &passing, &place.name);
                    return renamed.map_err(|e| place.error("renameat", e));
                }
                if !clear(place, &passing) {
                    passing = passing_name(place, Some(&unique()));
                }
            }
            Err((Step::Link, e)) => return Err(place.error("linkat", e)),
            Err((Step::Rename, e)) => return Err(place.error("renameat", e)),
        }
    }
    let source = io::Error::from_raw_os_error(libc::EEXIST);
    Err(place.error("linkat", source))
}

/// `.NAME.stillmap-draft`, the name that a file has in passing.
fn passing_name(place: &Place, more: Option<&str>) -> CString {
    let name = place.name.as_bytes();
    let more = more.unwrap_or_default();
    // tempfile adds six characters of its own.
    let room = NAME_MAX - 1 - SUFFIX.len() - more.len() - 6;
    let mut text = vec![b'.'];
    text.extend_from_slice(&name[..name.len().min(room)]);
    text.extend_from_slice(SUFFIX.as_bytes());
    text.extend_from_slice(more.as_bytes());
    CString::new(text).unwrap_or_default()
}

/// A part of a name that no other process and no other call uses.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(".{}-{count}", process::id())
}

/// Waits until the name in passing is free, and frees it if whoever used it is gone (by a loss of power, or killed
/// with all that belongs to it): its lock is gone then. False if that cannot be done.
fn clear(place: &Place, passing: &CStr) -> bool {
    let dir = place.dir.as_fd();
    let other = match write::open_beside(dir, passing) {
        Ok(other) => other,
        Err(e) => return e.kind() == io::ErrorKind::NotFound,
    };
    for _ in 0..PATIENCE {
        let locked = write::try_lock(other.as_fd());
        if id_of_name(place, passing) != id(&other) {
            // It has moved on.
            return true;
        }
        match locked {
            Ok(true) => return publish::unlink(dir, passing).is_ok(),
            Ok(false) => thread::sleep(Duration::from_millis(1)),
            Err(_) => return false,
        }
    }
    false
}

/// What tells a file from all others; `None` is none of them.
fn id(file: &File) -> Option<(u64, u64)> {
    file.metadata().map(|m| (m.dev(), m.ino())).ok()
}

fn id_of_name(place: &Place, name: &CStr) -> Option<(u64, u64)> {
    let entry = write::entry(place.dir.as_fd(), name);
    entry.map(|entry| entry.id).ok()
}

fn rename(named: NamedTempFile, place: &Place, create_new: bool) -> Result<File> {
    let from = named.path().file_name().unwrap_or_default();
    let from = write::c_string(from).map_err(|e| place.error("renameat", e))?;
    let dir = place.dir.as_fd();
    let renamed = match create_new {
        true => publish::rename_new(dir, &from, &place.name),
        false => publish::rename(dir, &from, &place.name),
    };
    // On failure `named` removes itself.
    renamed.map_err(|e| place.error("renameat", e))?;
    let (file, path) = named.into_parts();
    let _ = path.keep();
    Ok(file)
}

fn sync_directory(file: &File, place: &Place) -> Result<()> {
    let folder = Some(place.folder.as_path());
    let synced = match write::sync_directory(place.dir.as_fd()) {
        // It may be searched but not opened.
        Err(e) if e.raw_os_error() == Some(libc::EBADF) => write::sync_file_system(file.as_fd()),
        // Some network file systems do not sync directories.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    };
    synced.map_err(|e| Error::os("fsync", folder, e))
}
