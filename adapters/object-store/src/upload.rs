//! A multipart upload: its parts are written into one draft.

use super::api::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use super::errors::{generic, into_error};
use super::put_result;
use crate::cache::Cache;
use crate::publish::{self, Expected};
use async_trait::async_trait;
use futures_util::FutureExt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use stillmap::Draft;
use tokio::runtime::Handle;

#[derive(Debug)]
pub(super) struct DraftUpload {
    state: Arc<State>,
    /// Where the next part starts: the sum of the parts before it.
    offset: usize,
}

#[derive(Debug)]
struct State {
    /// `None` after the upload is complete or aborted.
    draft: Mutex<Option<Parts>>,
    path: PathBuf,
    cache: Arc<Cache>,
    fsync: bool,
}

#[derive(Debug)]
struct Parts {
    draft: Draft,
    /// How many bytes of it were written.
    written: usize,
}

impl DraftUpload {
    pub(super) fn new(draft: Draft, path: PathBuf, cache: Arc<Cache>, fsync: bool) -> Self {
        let draft = Mutex::new(Some(Parts { draft, written: 0 }));
        DraftUpload {
            state: Arc::new(State {
                draft,
                path,
                cache,
                fsync,
            }),
            offset: 0,
        }
    }
}

impl State {
    fn write(&self, offset: usize, data: &PutPayload) -> Result<()> {
        let mut draft = self.draft.lock().unwrap_or_else(PoisonError::into_inner);
        let Parts { draft, written } = draft.as_mut().ok_or_else(ended)?;
        let end = offset + data.content_length();
        if draft.len() < end {
            draft
                .resize(end)
                .map_err(io::Error::from)
                .map_err(generic)?;
        }
        copy_into(&mut draft[offset..end], data);
        *written += data.content_length();
        Ok(())
    }

    /// Ends the upload: no part is written after this.
    fn take(&self) -> Result<Parts> {
        let mut draft = self.draft.lock().unwrap_or_else(PoisonError::into_inner);
        draft.take().ok_or_else(ended)
    }

    /// The same, if `len` bytes were written. Otherwise the upload can still be aborted.
    fn take_complete(&self, len: usize) -> Result<Parts> {
        let mut draft = self.draft.lock().unwrap_or_else(PoisonError::into_inner);
        if draft.as_ref().is_some_and(|parts| parts.written < len) {
            // The object would have zeros instead of them.
            return Err(generic("a part was not written"));
        }
        draft.take().ok_or_else(ended)
    }
}

fn ended() -> super::api::Error {
    generic("the upload is complete or aborted")
}

#[async_trait]
impl MultipartUpload for DraftUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let offset = self.offset;
        self.offset += data.content_length();
        let state = Arc::clone(&self.state);
        blocking(move || state.write(offset, &data)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (state, len) = (Arc::clone(&self.state), self.offset);
        blocking(move || {
            let Parts { draft, .. } = state.take_complete(len)?;
            let published = publish::publish(draft, &state.path, &Expected::Anything, state.fsync);
            let etag = published.map_err(|e| into_error(e, &state.path))?;
            state.cache.forget(&state.path);
            Ok(put_result(&etag))
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        let state = Arc::clone(&self.state);
        blocking(move || state.take().map(drop)).await
    }
}

/// Runs what may block on tokio's blocking pool, or here if there is no runtime.
pub(super) async fn blocking<T, F>(f: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(f).await?,
        Err(_) => f(),
    }
}

/// Copies a payload to the start of `target`, which is as long.
pub(super) fn copy_into(target: &mut [u8], payload: &PutPayload) {
    let mut rest = target;
    for chunk in payload {
        let (head, tail) = rest.split_at_mut(chunk.len());
        head.copy_from_slice(chunk);
        rest = tail;
    }
}
