//! The store for object_store 0.14.

pub(crate) use object_store as api;

#[path = "errors.rs"]
mod errors;
#[path = "store.rs"]
pub(crate) mod store;
#[path = "upload.rs"]
mod upload;

use api::local::LocalFileSystem;
use api::{Attributes, GetResult, GetResultPayload, ObjectMeta, PutResult};
use std::ops::Range;

/// An etag as this release writes it: in quotes.
fn e_tag(etag: &str) -> Option<String> {
    Some(format!("\"{etag}\""))
}

fn put_result(etag: &str) -> PutResult {
    PutResult {
        e_tag: e_tag(etag),
        version: None,
        extensions: Default::default(),
    }
}

fn get_result(payload: GetResultPayload, meta: ObjectMeta, range: Range<u64>) -> GetResult {
    GetResult {
        payload,
        meta,
        range,
        attributes: Attributes::default(),
        extensions: Default::default(),
    }
}

fn with_fsync(local: LocalFileSystem, fsync: bool) -> LocalFileSystem {
    local.with_fsync(fsync)
}
