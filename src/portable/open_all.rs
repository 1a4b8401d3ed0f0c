//! Opens many files in order, one after the other.

use super::snapshot::{Snapshot, SnapshotOptions};
use crate::error::Result;
use std::fmt;
use std::iter::FusedIterator;
use std::path::Path;

/// Snapshots of many files, in order; made by [`open_all`]. Here each file is opened when it is asked for.
#[must_use = "it opens nothing before the first `next`"]
pub struct OpenAll<I> {
    paths: std::iter::Fuse<I>,
    options: SnapshotOptions,
}

/// Snapshots of many files, in order.
pub fn open_all<P>(paths: P) -> OpenAll<P::IntoIter>
where
    P: IntoIterator,
    P::Item: AsRef<Path>,
{
    Snapshot::options().open_all(paths)
}

impl SnapshotOptions {
    /// Snapshots of many files, in order, with these options.
    pub fn open_all<P>(&self, paths: P) -> OpenAll<P::IntoIter>
    where
        P: IntoIterator,
        P::Item: AsRef<Path>,
    {
        OpenAll {
            paths: paths.into_iter().fuse(),
            options: self.clone(),
        }
    }
}

impl<I> Iterator for OpenAll<I>
where
    I: Iterator,
    I::Item: AsRef<Path>,
{
    type Item = Result<Snapshot>;

    fn next(&mut self) -> Option<Self::Item> {
        let path = self.paths.next()?;
        Some(self.options.open(path))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.paths.size_hint()
    }
}

impl<I> ExactSizeIterator for OpenAll<I>
where
    I: ExactSizeIterator,
    I::Item: AsRef<Path>,
{
}

impl<I> FusedIterator for OpenAll<I>
where
    I: Iterator,
    I::Item: AsRef<Path>,
{
}

impl<I> fmt::Debug for OpenAll<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("OpenAll");
        shown
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
