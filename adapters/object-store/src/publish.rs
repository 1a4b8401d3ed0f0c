//! A draft becomes an object: the lock, the condition, and the etag.

use crate::file::etag;
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use stillmap::Draft;

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
    Io(io::Error),
}

/// A draft for `path`. Missing directories are made, unless there has to be an object in them.
pub(crate) fn create(
    path: &Path,
    len: usize,
    expected: &Expected,
    fsync: bool,
) -> Result<Draft, PublishError> {
    let is_new = matches!(expected, Expected::NoObject);
    let options = Draft::options().durable(fsync).create_new(is_new);
    let create = || options.create(path, len).map_err(io::Error::from);
    let created = match (create(), expected) {
        (Err(error), Expected::Etag(wanted)) if error.kind() == ErrorKind::NotFound => {
            return Err(no_object(wanted));
        }
        (Err(error), _) if error.kind() == ErrorKind::NotFound => {
            create_parents(path, fsync)?;
            create()
        }
        (created, _) => created,
    };
    created.map_err(|error| match error.kind() {
        // A directory is in the way of a new object as a file is.
        ErrorKind::IsADirectory if is_new => PublishError::Exists(error),
        _ => error.into(),
    })
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
    fs::create_dir_all(parent)?;
    if fsync {
        // The entry of each new directory is in the one above it.
        for directory in parent.ancestors().skip(1).take(new) {
            File::open(directory)?.sync_all()?;
        }
    }
    Ok(())
}

/// Commits a draft if the path names what is expected; the etag of the new object.
pub(crate) fn publish(
    draft: Draft,
    path: &Path,
    expected: &Expected,
) -> Result<String, PublishError> {
    let _lock = lock_directory(path, expected)?;
    if let Expected::Etag(wanted) = expected {
        check_etag(path, wanted)?;
    }
    // Another process may replace the object before its metadata is read by name.
    let file = draft.file().ok().and_then(|file| file.try_clone().ok());
    draft.commit().map_err(io::Error::from)?;
    let metadata = file.map_or_else(|| fs::metadata(path), |file| file.metadata());
    Ok(etag(&metadata?))
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
