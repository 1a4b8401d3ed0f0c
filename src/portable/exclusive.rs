//! An existing file, to edit in place: not on this platform.

use super::input::AsFile;
use super::pages::Pages;
use crate::backing::Backing;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use std::convert::Infallible;
use std::fs::File;
use std::ops::RangeBounds;
use std::path::Path;
use std::ptr::NonNull;
use std::time::Duration;

/// A file that is edited in place while no other process has it open. Not available on this platform: [`Exclusive::open`]
/// fails with [`Error::Unsupported`].
pub struct Exclusive(Infallible);

impl Exclusive {
    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Exclusive::options().open(path)
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn try_open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Exclusive::options().open(path)
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn from_file(file: File) -> Result<Self> {
        Exclusive::options().from_file(file)
    }

    /// How long to wait.
    pub fn options() -> ExclusiveOptions {
        ExclusiveOptions
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    ///
    /// # Safety
    /// It does nothing.
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFile>(_file: F) -> Result<Self> {
        Err(unsupported(None))
    }

    /// What keeps others away.
    pub fn backing(&self) -> Backing {
        match self.0 {}
    }

    /// Makes the file longer or shorter.
    ///
    /// # Errors
    /// There is no value to call it on.
    pub fn resize(&mut self, _len: usize) -> Result<()> {
        match self.0 {}
    }

    /// Writes the changes to the device.
    ///
    /// # Errors
    /// There is no value to call it on.
    pub fn flush(&self) -> Result<()> {
        match self.0 {}
    }

    /// Writes the changes in a range to the device.
    ///
    /// # Errors
    /// There is no value to call it on.
    pub fn flush_range<R: RangeBounds<usize>>(&self, _range: R) -> Result<()> {
        match self.0 {}
    }

    /// Starts writing the changes in a range to the device.
    ///
    /// # Errors
    /// There is no value to call it on.
    pub fn start_writeback<R: RangeBounds<usize>>(&self, _range: R) -> Result<()> {
        match self.0 {}
    }

    /// True if another process waits to open the file.
    pub fn has_waiter(&self) -> bool {
        match self.0 {}
    }

    /// Writes the changes and lets others open the file.
    ///
    /// # Errors
    /// There is no value to call it on.
    pub fn close(self) -> Result<()> {
        match self.0 {}
    }

    /// Residency, advice and locks.
    pub fn pages(&self) -> Pages<'_> {
        match self.0 {}
    }
}

// SAFETY: there is no value.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Exclusive {
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        match self.0 {}
    }
}

impl_byte_slice!(Exclusive, debug: has_waiter);
impl_byte_slice_mut!(Exclusive);

/// How to open an [`Exclusive`]; made by [`Exclusive::options`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct ExclusiveOptions;

impl ExclusiveOptions {
    /// No effect.
    pub fn wait(self, _time: Duration) -> Self {
        self
    }

    /// No effect.
    pub fn offset(self, _offset: u64) -> Self {
        self
    }

    /// No effect.
    pub fn len(self, _len: usize) -> Self {
        self
    }

    /// No effect.
    pub fn reserve(self, _len: usize) -> Self {
        self
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    ///
    /// # Safety
    /// It does nothing.
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFile>(&self, _file: F) -> Result<Exclusive> {
        Err(unsupported(None))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Exclusive> {
        Err(unsupported(Some(path.as_ref())))
    }

    /// Fails.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn from_file(&self, _file: File) -> Result<Exclusive> {
        Err(unsupported(None))
    }
}

fn unsupported(path: Option<&Path>) -> Error {
    Error::unsupported(path, "an exclusive mapping of a file")
}
