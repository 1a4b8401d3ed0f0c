//! An [`ObjectStore`](object_store::ObjectStore) for local files whose reads are [`stillmap`] snapshots.
//!
//! [`StillmapFileSystem`] takes the place of [`LocalFileSystem`](object_store::local::LocalFileSystem): it has the same
//! paths, URLs, etags and errors. The bytes that it returns are a mapping of the file under a read lease. They are not
//! copied, and they do not change while other processes rewrite, truncate or delete the file.
//!
//! ```
//! use object_store::{ObjectStoreExt, path::Path};
//! use stillmap_object_store::StillmapFileSystem;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> object_store::Result<()> {
//! # let directory = tempfile::tempdir().expect("a temporary directory");
//! let store = StillmapFileSystem::new_with_prefix(directory.path())?;
//! store.put(&Path::from("greeting"), "hello".into()).await?;
//! assert_eq!(store.get_range(&Path::from("greeting"), 1..4).await?, "ell");
//! # Ok(())
//! # }
//! ```
//!
//! # Reads
//!
//! A read calls stat(2) on the path. If the cache holds a snapshot of this version of the file, and its lease still holds,
//! the answer is a slice of that snapshot. Otherwise the file is opened on the blocking pool. Pages of the range that are
//! not in RAM are read from the disk on the blocking pool as well, so a page fault does not block the runtime.
//!
//! A file that cannot be leased (tmpfs, overlayfs, NFS; a file of another user; a file that a process has open for writing)
//! is read by `LocalFileSystem`. See [`Snapshot::backing`](stillmap::Snapshot::backing).
//!
//! # Writes
//!
//! A put and a multipart upload are a [`stillmap::Draft`]: the path names the old object or the new one, whole, at every
//! moment. [`PutMode::Update`](object_store::PutMode::Update) replaces an object if its etag is the given one.
//! List, copy, rename and delete are those of `LocalFileSystem`.

mod cache;
mod file;
mod mincore;
mod publish;
mod v0_14;

#[cfg(feature = "object_store_0_13")]
mod v0_13;

pub use cache::CacheLimits;
pub use v0_14::store::StillmapFileSystem;

/// The same store for object_store 0.13, which DataFusion 55 and Ballista 55 use.
#[cfg(feature = "object_store_0_13")]
pub mod object_store_0_13 {
    pub use crate::v0_13::store::StillmapFileSystem;
}
