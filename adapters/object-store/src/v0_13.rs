//! The store for object_store 0.13: the same sources, without what that release does not have.

pub(crate) use object_store_0_13 as api;

#[path = "errors.rs"]
#[allow(clippy::duplicate_mod)]
mod errors;
#[path = "store.rs"]
#[allow(clippy::duplicate_mod)] // one source, two releases of the trait
pub(crate) mod store;
#[path = "upload.rs"]
#[allow(clippy::duplicate_mod)]
mod upload;

use api::local::LocalFileSystem;
use api::{Attributes, GetResult, GetResultPayload, ObjectMeta, PutResult};
use std::ops::Range;

/// An etag as this release writes it: without quotes.
fn e_tag(etag: &str) -> Option<String> {
    Some(etag.to_string())
}

fn put_result(etag: &str) -> PutResult {
    PutResult {
        e_tag: e_tag(etag),
        version: None,
    }
}

fn get_result(payload: GetResultPayload, meta: ObjectMeta, range: Range<u64>) -> GetResult {
    GetResult {
        payload,
        meta,
        range,
        attributes: Attributes::default(),
    }
}

/// The `LocalFileSystem` of 0.13 has no such option: copies and renames are not synced.
fn with_fsync(local: LocalFileSystem, _: bool) -> LocalFileSystem {
    local
}
