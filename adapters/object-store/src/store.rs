//! [`StillmapFileSystem`]. Compiled once for each supported release of object_store, which is `super::api`.

use super::api::local::LocalFileSystem;
use super::api::path::Path;
use super::api::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};
use super::errors::{generic, into_error};
use super::upload::{DraftUpload, blocking, copy_into};
use super::{e_tag, get_result, put_result, with_fsync};
use crate::cache::{Cache, CacheLimits};
use crate::file::{MappedFile, etag};
use crate::publish::{self, Expected, PublishError};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// The most bytes of a range that are read from the disk before the first of them is returned. A cold range that is longer
/// is returned in pieces of this size.
const COLD_PIECE: u64 = 64 << 20;

/// An [`ObjectStore`] for local files whose reads are snapshots: zero-copy, whole, unchanging.
///
/// It takes the place of [`LocalFileSystem`] and has the same paths, URLs, etags and errors. Clones share one cache.
#[derive(Clone, Debug)]
pub struct StillmapFileSystem {
    local: LocalFileSystem,
    cache: Arc<Cache>,
    fsync: bool,
}

impl Default for StillmapFileSystem {
    fn default() -> Self {
        StillmapFileSystem::new()
    }
}

impl fmt::Display for StillmapFileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StillmapFileSystem({})", self.local)
    }
}

impl From<LocalFileSystem> for StillmapFileSystem {
    fn from(local: LocalFileSystem) -> Self {
        StillmapFileSystem {
            local,
            cache: Arc::new(Cache::new(CacheLimits::default())),
            fsync: false,
        }
    }
}

impl StillmapFileSystem {
    /// A store of all files of this machine, as [`LocalFileSystem::new`].
    pub fn new() -> Self {
        LocalFileSystem::new().into()
    }

    /// A store of the files below a directory, as [`LocalFileSystem::new_with_prefix`].
    ///
    /// # Errors
    /// As `LocalFileSystem`: the directory does not exist.
    pub fn new_with_prefix(prefix: impl AsRef<std::path::Path>) -> Result<Self> {
        Ok(LocalFileSystem::new_with_prefix(prefix)?.into())
    }

    /// The path of an object in the file system.
    ///
    /// # Errors
    /// As `LocalFileSystem`: the location is not a valid path of a file.
    pub fn path_to_filesystem(&self, location: &Path) -> Result<PathBuf> {
        self.local.path_to_filesystem(location)
    }

    /// Whether a delete also removes the directories that it leaves empty; default false.
    #[must_use]
    pub fn with_automatic_cleanup(mut self, yes: bool) -> Self {
        self.local = self.local.with_automatic_cleanup(yes);
        self
    }

    /// Whether writes survive a loss of power when they return; default false, as for `LocalFileSystem`.
    #[must_use]
    pub fn with_fsync(mut self, yes: bool) -> Self {
        self.local = with_fsync(self.local, yes);
        self.fsync = yes;
        self
    }

    /// Replaces the cache by an empty one with these limits.
    #[must_use]
    pub fn with_cache_limits(mut self, limits: CacheLimits) -> Self {
        self.cache = Arc::new(Cache::new(limits));
        self
    }

    /// How many files are cached, and how many bytes they have in all.
    pub fn cache_size(&self) -> (usize, u64) {
        self.cache.size()
    }

    /// Drops every cached snapshot. Bytes that were returned stay.
    pub fn clear_cache(&self) {
        self.cache.clear();
    }

    /// The snapshot of an object; `None` if `LocalFileSystem` has to answer, which includes all errors.
    async fn open(&self, location: &Path) -> Result<Option<MappedFile>> {
        let Ok(path) = self.local.path_to_filesystem(location) else {
            return Ok(None);
        };
        if self.cache.is_sweep_due() {
            let cache = Arc::clone(&self.cache);
            blocking(move || {
                cache.sweep();
                Ok(())
            })
            .await?;
        }
        if let Some(file) = self.cache.get(&path) {
            return Ok(Some(file));
        }
        let cache = Arc::clone(&self.cache);
        blocking(move || Ok(cache.open(&path).unwrap_or(None))).await
    }

    /// The same; an object that cannot be mapped is copied, so that it is whole.
    async fn open_or_copy(&self, location: &Path) -> Result<Option<MappedFile>> {
        if let Some(file) = self.open(location).await? {
            return Ok(Some(file));
        }
        let Ok(path) = self.local.path_to_filesystem(location) else {
            return Ok(None);
        };
        blocking(move || Ok(MappedFile::copy(&path).unwrap_or(None))).await
    }

    /// Removes the snapshot of an object that was replaced or deleted.
    fn forget(&self, location: &Path) {
        if let Ok(path) = self.local.path_to_filesystem(location) {
            self.cache.forget(&path);
        }
    }
}

#[async_trait]
impl ObjectStore for StillmapFileSystem {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        if !opts.attributes.is_empty() {
            // Not implemented there either.
            return self.local.put_opts(location, payload, opts).await;
        }
        let expected = match &opts.mode {
            PutMode::Overwrite => Expected::Anything,
            PutMode::Create => Expected::NoObject,
            PutMode::Update(version) => match &version.e_tag {
                Some(etag) => Expected::Etag(etag.trim_matches('"').to_string()),
                None => return Err(generic("an update needs an etag")),
            },
        };
        let path = self.local.path_to_filesystem(location)?;
        let (cache, fsync) = (Arc::clone(&self.cache), self.fsync);
        let copy = payload.clone();
        let put = blocking(move || {
            let fail = |error| into_error(error, &path);
            let mut draft = match publish::create(&path, copy.content_length(), &expected, fsync) {
                Ok(draft) => draft,
                Err(PublishError::Special) => return Ok(None),
                Err(error) => return Err(fail(error)),
            };
            copy_into(&mut draft, &copy);
            let etag = publish::publish(draft, &path, &expected, fsync).map_err(fail)?;
            cache.forget(&path);
            Ok(Some(put_result(&etag)))
        });
        match put.await? {
            Some(result) => Ok(result),
            None => self.local.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !opts.attributes.is_empty() {
            return self.local.put_multipart_opts(location, opts).await;
        }
        let path = self.local.path_to_filesystem(location)?;
        let (cache, fsync) = (Arc::clone(&self.cache), self.fsync);
        let upload = blocking(move || {
            match publish::create(&path, 0, &Expected::Anything, fsync) {
                Ok(draft) => Ok(Some(DraftUpload::new(draft, path, cache, fsync))),
                Err(PublishError::Special) => Ok(None),
                // `LocalFileSystem` fails at the end of such an upload.
                Err(PublishError::Io(e)) if e.kind() == ErrorKind::IsADirectory => Ok(None),
                Err(e) => Err(into_error(e, &path)),
            }
        });
        match upload.await? {
            Some(upload) => Ok(Box::new(upload)),
            None => self.local.put_multipart_opts(location, opts).await,
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let file = if options.head {
            // Metadata alone needs no mapping.
            let path = self.local.path_to_filesystem(location);
            path.ok().and_then(|path| self.cache.get(&path))
        } else if options.range.is_some() {
            self.open(location).await?
        } else {
            self.open_or_copy(location).await?
        };
        let Some(file) = file else {
            return self.local.get_opts(location, options).await;
        };
        let meta = object_meta(&file, location.clone());
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            None => 0..file.len(),
            Some(range) => match range.as_range(file.len()) {
                Ok(range) => range,
                Err(_) => return self.local.get_opts(location, options).await,
            },
        };
        let stream = pieces(file, range.clone());
        Ok(get_result(GetResultPayload::Stream(stream), meta, range))
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let file = self.open(location).await?;
        let file = file.filter(|file| {
            let is_inside =
                |range: &Range<u64>| range.start <= range.end && range.end <= file.len();
            ranges.iter().all(is_inside)
        });
        match file {
            Some(file) => read(&file, ranges).await,
            None => self.local.get_ranges(location, ranges).await,
        }
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = self.local.delete_stream(locations);
        deleted
            .inspect_ok(move |location| store.forget(location))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        without_drafts(self.local.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        without_drafts(self.local.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut result = self.local.list_with_delimiter(prefix).await?;
        result.objects.retain(|object| !is_draft(&object.location));
        Ok(result)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.local.copy_opts(from, to, options).await?;
        self.forget(to);
        Ok(())
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.local.rename_opts(from, to, options).await?;
        self.forget(from);
        self.forget(to);
        Ok(())
    }
}

/// The bytes of ranges that lie inside the file. Cold ones are read from the disk on the blocking pool.
async fn read(file: &MappedFile, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
    let cold = file.cold(ranges);
    if !cold.is_empty() {
        let file = file.clone();
        blocking(move || file.populate(&cold).map_err(generic)).await?;
    }
    Ok(ranges.iter().map(|range| file.slice(range)).collect())
}

/// The bytes of a range: one piece if they are in RAM or few.
fn pieces(file: MappedFile, range: Range<u64>) -> BoxStream<'static, Result<Bytes>> {
    stream::try_unfold((file, range), |(file, rest)| async move {
        if rest.is_empty() {
            return Ok(None);
        }
        let is_short = rest.end - rest.start <= COLD_PIECE;
        let is_whole = is_short || file.cold(std::slice::from_ref(&rest)).is_empty();
        let end = if is_whole {
            rest.end
        } else {
            rest.start + COLD_PIECE
        };
        let piece = rest.start..end;
        let bytes = read(&file, std::slice::from_ref(&piece)).await?;
        Ok(bytes
            .into_iter()
            .next()
            .map(|bytes| (bytes, (file, end..rest.end))))
    })
    .boxed()
}

fn object_meta(file: &MappedFile, location: Path) -> ObjectMeta {
    let modified = file.metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    ObjectMeta {
        location,
        last_modified: modified.into(),
        size: file.len(),
        e_tag: e_tag(&etag(&file.metadata)),
        version: None,
    }
}

/// A draft that replaces a file has a hidden name for an instant.
fn is_draft(location: &Path) -> bool {
    let name = location.filename().unwrap_or_default();
    name.starts_with('.') && name.contains(".stillmap-draft")
}

fn without_drafts(
    objects: BoxStream<'static, Result<ObjectMeta>>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let is_object = |object: &ObjectMeta| std::future::ready(!is_draft(&object.location));
    objects.try_filter(is_object).boxed()
}
