//! The store for object_store 0.14.

pub(crate) use object_store as api;

#[path = "store.rs"]
pub(crate) mod store;
#[path = "upload.rs"]
mod upload;

use api::local::LocalFileSystem;
use api::{Attributes, GetResult, GetResultPayload, ObjectMeta, PutResult};
use std::ops::Range;

fn put_result(e_tag: String) -> PutResult {
    PutResult {
        e_tag: Some(e_tag),
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
