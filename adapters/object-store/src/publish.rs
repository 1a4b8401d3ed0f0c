//! A draft becomes an object: the lock, the condition, and the etag.

use crate::file::etag;
use rustix::fs::{FlockOperation, flock};
use rustix::io::retry_on_intr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use stillmap::Draft;

/// What a put requires of the object that the path names.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Anything,
    NoObject,
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

/// A draft for `path`; missing directories are made.
pub(crate) fn create(path: &Path, len: usize, new: bool, fsync: bool) -> io::Result<Draft> {
    let create = || {
        Draft::options()
            .sync(fsync)
            .create_new(new)
            .create(path, len)
    };
    match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_parents(path, fsync)?;
            Ok(create()?)
        }
        created => Ok(created?),
    }
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
    let _lock = Lock::acquire(path, matches!(expected, Expected::Etag(_)))?;
    if let Expected::Etag(wanted) = expected {
        check_etag(path, wanted)?;
    }
    draft.commit().map_err(io::Error::from)?;
    Ok(etag(&fs::metadata(path)?))
}

fn check_etag(path: &Path, wanted: &str) -> Result<(), PublishError> {
    let found = match fs::metadata(path) {
        Ok(metadata) => etag(&metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(PublishError::Changed(format!(
                "no object has etag {wanted}"
            )));
        }
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
        if error.kind() == io::ErrorKind::AlreadyExists {
            PublishError::Exists(error)
        } else {
            PublishError::Io(error)
        }
    }
}

/// The error of a put that could not start: a directory is in the way of a new object as a file is.
pub(crate) fn create_error(error: io::Error, expected: &Expected) -> PublishError {
    let new = matches!(expected, Expected::NoObject);
    if new && error.kind() == io::ErrorKind::IsADirectory {
        PublishError::Exists(error)
    } else {
        error.into()
    }
}

/// Puts of one path take turns in this process, so that the etag returned is that of the object put. The directory is
/// locked with flock(2) against conditional puts of other processes, and left as it is.
struct Lock {
    _directory: Option<File>,
    _path: MutexGuard<'static, ()>,
}

/// Paths share locks by hash: two puts in parallel share one of 64 in 1.6 % of cases.
static LOCKS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

impl Lock {
    fn acquire(path: &Path, conditional: bool) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let lock = &LOCKS[hasher.finish() as usize % LOCKS.len()];
        let path_lock = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let operation = if conditional {
            FlockOperation::LockExclusive
        } else {
            FlockOperation::LockShared
        };
        let locked = lock_directory(path, operation);
        Ok(Lock {
            // Only a conditional put depends on it. Some file systems have no flock(2) on directories.
            _directory: if conditional {
                Some(locked?)
            } else {
                locked.ok()
            },
            _path: path_lock,
        })
    }
}

fn lock_directory(path: &Path, operation: FlockOperation) -> io::Result<File> {
    let directory = File::open(path.parent().unwrap_or(path))?;
    retry_on_intr(|| flock(&directory, operation))?;
    Ok(directory)
}
