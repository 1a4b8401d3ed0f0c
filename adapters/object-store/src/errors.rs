//! The errors of this store, as object_store has them.

use super::api::Error;
use crate::publish::PublishError;

pub(super) fn generic(
    source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
) -> Error {
    Error::Generic {
        store: "StillmapFileSystem",
        source: source.into(),
    }
}

/// The error that `LocalFileSystem` has for the same cause.
pub(super) fn into_error(error: PublishError, path: &std::path::Path) -> Error {
    let path = path.display().to_string();
    match error {
        PublishError::Exists(source) => Error::AlreadyExists {
            path,
            source: source.into(),
        },
        PublishError::Changed(what) => Error::Precondition {
            path,
            source: what.into(),
        },
        PublishError::Special => generic(format!("{path} is not a regular file")),
        PublishError::Io(source) => generic(source),
    }
}
