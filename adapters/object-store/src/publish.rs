//! A draft becomes an object: the lock, the condition, and the etag.

use crate::file::etag;
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::path::Path;
use stillmap::{CommitError, Draft};

/// What a put requires of the object that the path names.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Anything,
    NoObject,
    /// An object with this etag, without quotes.
    Etag(String),
}

/// Why an object was not published.
#[derive(Debug)]
pub(crate) enum PublishError {
    /// There is an object, and none was expected.
    Exists(io::Error),
    /// The object has another etag, or there is none.
    Changed(String),
    /// The path names a symbolic link or a special file, which `LocalFileSystem` replaces.
    Special,
    Io(io::Error),
}

/// How often directories are made that other tasks remove meanwhile, because they are empty. One task loses to three
/// others a few times in a row.
const DIRECTORY_ATTEMPTS: usize = 100;

/// A draft for `path`. Missing directories are made, unless there has to be an object in them.
pub(crate) fn create(
    path: &Path,
    len: usize,
    expected: &Expected,
    fsync: bool,
) -> Result<Draft, PublishError> {
    check_type(path, expected)?;
    let is_new = matches!(expected, Expected::NoObject);
    let options = Draft::options().durable(fsync).create_new(is_new);
    let mut created = options.create(path, len);
    for _ in 0..DIRECTORY_ATTEMPTS {
        let Err(error) = &created else { break };
        let errno = error.raw_os_error();
        match expected {
            Expected::Etag(wanted) if errno == Some(libc::ENOENT) => return Err(no_object(wanted)),
            Expected::Etag(_) => break,
            Expected::Anything | Expected::NoObject if !is_directory_gone(errno) => break,
            Expected::Anything | Expected::NoObject => {}
        }
        create_parents(path, fsync).map_err(PublishError::Io)?;
        created = options.create(path, len);
    }
    let created = created.map_err(io::Error::from);
    created.map_err(|error| match error.kind() {
        // A directory is in the way of a new object as a file is.
        ErrorKind::IsADirectory if is_new => PublishError::Exists(error),
        _ => error.into(),
    })
}

/// True for the errors of a directory that does not exist, and of one that was removed after it was opened: ext4 fails
/// with EPERM there.
fn is_directory_gone(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::ENOENT | libc::EPERM))
}

/// A draft would follow a symbolic link, and write into a FIFO or a device. A directory is refused later.
fn check_type(path: &Path, expected: &Expected) -> Result<(), PublishError> {
    let is_special = |metadata: Metadata| !metadata.is_file() && !metadata.is_dir();
    if !fs::symlink_metadata(path).is_ok_and(is_special) {
        return Ok(());
    }
    match expected {
        Expected::Etag(wanted) if !fs::metadata(path).is_ok_and(|object| object.is_file()) => {
            Err(no_object(wanted))
        }
        // A conditional put through a link.
        Expected::Etag(_) => Ok(()),
        Expected::Anything | Expected::NoObject => Err(PublishError::Special),
    }
}

fn no_object(wanted: &str) -> PublishError {
    PublishError::Changed(format!("no object has etag {wanted}"))
}

/// Makes the directories above `path`; with `fsync`, so that they survive a loss of power.
fn create_parents(path: &Path, fsync: bool) -> io::Result<()> {
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    let is_new = |directory: &&Path| !directory.exists();
    let new = parent.ancestors().take_while(is_new).count();
    let made = fs::create_dir_all(parent).and_then(|()| {
        if fsync {
            // The entry of each new directory is in the one above it.
            for directory in parent.ancestors().skip(1).take(new) {
                File::open(directory)?.sync_all()?;
            }
        }
        Ok(())
    });
    match made {
        // Another task has removed one of them meanwhile. The caller tries again.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        made => made,
    }
}

/// Commits a draft if the path names what is expected; the etag of the new object.
pub(crate) fn publish(
    draft: Draft,
    path: &Path,
    expected: &Expected,
    fsync: bool,
) -> Result<String, PublishError> {
    let _lock = lock_directory(path, expected)?;
    if let Expected::Etag(wanted) = expected {
        check_etag(path, wanted)?;
    }
    // Another process may replace the object before its metadata is read by name.
    let file = draft.file().ok().and_then(|file| file.try_clone().ok());
    let metadata = match (draft.commit(), file) {
        (Ok(()), Some(file)) => file.metadata(),
        (Ok(()), None) => fs::metadata(path),
        (Err(failed), _) => commit_again(failed, path, fsync).and_then(|()| fs::metadata(path)),
    };
    Ok(etag(&metadata?))
}

/// Makes the directory that another task has removed since the draft was created, because it was empty.
fn commit_again(mut failed: CommitError, path: &Path, fsync: bool) -> io::Result<()> {
    // No name is made in a directory that was removed.
    let mut is_gone = failed.raw_os_error() == Some(libc::ENOENT);
    for _ in 0..DIRECTORY_ATTEMPTS {
        if !is_gone {
            break;
        }
        create_parents(path, fsync)?;
        match failed.draft.commit_to(path) {
            Ok(()) => return Ok(()),
            Err(again) => failed = again,
        }
        is_gone = is_directory_gone(failed.raw_os_error());
    }
    Err(failed.error.into())
}

fn check_etag(path: &Path, wanted: &str) -> Result<(), PublishError> {
    let found = match fs::metadata(path) {
        Ok(metadata) => etag(&metadata),
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(no_object(wanted)),
        Err(error) => return Err(error.into()),
    };
    if found == wanted {
        Ok(())
    } else {
        Err(PublishError::Changed(format!(
            "{found} does not match {wanted}"
        )))
    }
}

impl From<io::Error> for PublishError {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::AlreadyExists {
            PublishError::Exists(error)
        } else {
            PublishError::Io(error)
        }
    }
}

/// Locks the directory of an object against conditional puts, or, for a conditional put, against all: flock(2), which leaves
/// the directory as it is, and also holds between threads.
fn lock_directory(path: &Path, expected: &Expected) -> io::Result<Option<File>> {
    let is_conditional = matches!(expected, Expected::Etag(_));
    let operation = if is_conditional {
        FlockOperation::LockExclusive
    } else {
        FlockOperation::LockShared
    };
    let lock = || {
        let directory = File::open(path.parent().unwrap_or(path))?;
        retry_on_intr(|| flock(&directory, operation))?;
        Ok(directory)
    };
    match lock() {
        Ok(directory) => Ok(Some(directory)),
        // Only a conditional put needs it. Some file systems have no flock(2) on directories.
        Err(_) if !is_conditional => Ok(None),
        Err(error) => Err(error),
    }
}
