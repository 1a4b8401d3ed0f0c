//! An existing file, edited in place while no other handle has it open: on Windows.

use super::input::AsFile;
use super::pages::{Kind, Pages};
use super::writable::Writable;
use crate::backing::Backing;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use crate::options::{impl_try_from_file, setters};
use crate::range;
use std::fs::File;
use std::ops::RangeBounds;
use std::path::Path;
use std::ptr::NonNull;
use std::thread;
use std::time::{Duration, Instant};

/// How long an open is retried by default while another handle has the file open: virus scanners and indexers open a file
/// for some milliseconds after it was written.
const DEFAULT_WAIT: Duration = Duration::from_millis(30);

/// The time between two attempts.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// An existing file, edited in place. Stores go to the file.
///
/// On Windows every other open of the file fails with a sharing violation; none waits. It works on local NTFS volumes, for
/// files that are neither sparse nor compressed; others fail with [`Error::Unprotectable`]. On other platforms
/// [`Exclusive::open`] fails with [`Error::Unsupported`].
pub struct Exclusive {
    file: Writable,
}

impl Exclusive {
    /// Opens an existing file for reading and writing. Every other open of it fails until this is closed or dropped.
    ///
    /// # Errors
    /// [`Error::Busy`] if the file is open elsewhere for longer than some milliseconds; [`Error::Unprotectable`];
    /// [`Error::Unsupported`]; [`Error::IsDirectory`]; [`Error::Os`].
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Exclusive::options().open(path)
    }

    /// The same, and waits for nothing: a file that is open elsewhere is [`Busy`](Error::Busy) at once.
    ///
    /// # Errors
    /// As [`open`](Exclusive::open).
    pub fn try_open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Exclusive::options().wait(Duration::ZERO).open(path)
    }

    /// How long to wait.
    pub fn options() -> ExclusiveOptions {
        ExclusiveOptions::default()
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
        Err(Error::unsupported(None, "an unguarded mapping of a file"))
    }

    /// [`Backing::Locked`].
    pub fn backing(&self) -> Backing {
        Backing::Locked
    }

    /// Makes the file longer or shorter; the bytes may move. New bytes are zero.
    ///
    /// # Errors
    /// [`Error::Os`]. If the new length could be set and not be mapped, there are no bytes until a later call succeeds.
    pub fn resize(&mut self, len: usize) -> Result<()> {
        self.file.resize(len)
    }

    /// Writes the changes to the device.
    ///
    /// # Errors
    /// [`Error::Os`].
    pub fn flush(&self) -> Result<()> {
        self.file.flush(0..self.len(), true)
    }

    /// Writes the changes in a range to the device.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`], [`Error::Os`].
    pub fn flush_range<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        self.file.flush(range::check(range, self.len())?, true)
    }

    /// Starts writing the changes in a range to the device.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`], [`Error::Os`].
    pub fn start_writeback<R: RangeBounds<usize>>(&self, range: R) -> Result<()> {
        self.file.flush(range::check(range, self.len())?, false)
    }

    /// False: other opens fail, and do not wait.
    pub fn has_waiter(&self) -> bool {
        false
    }

    /// Writes the changes and closes the file.
    ///
    /// # Errors
    /// As [`flush`](Exclusive::flush). The file is closed all the same.
    pub fn close(self) -> Result<()> {
        self.flush()
    }

    /// Prefetch, populate, lock and residency of its pages, as far as the platform has them.
    pub fn pages(&self) -> Pages<'_> {
        Pages::new(self, Kind::Own)
    }
}

// SAFETY: the bytes of `file`, which promises the same. They are writable.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Exclusive {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        self.file.start_and_len()
    }
}

impl_byte_slice!(Exclusive, debug: has_waiter);
impl_byte_slice_mut!(Exclusive);

impl_try_from_file! {
    /// Fails: [`ExclusiveOptions::from_owned`].
    Exclusive, file => Exclusive::options().from_owned(file)
}

/// How to open an [`Exclusive`]; made by [`Exclusive::options`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ExclusiveOptions {
    wait: Option<Duration>,
    has_window: bool,
}

setters! {
    impl ExclusiveOptions;

    /// How long to try to open a file that is open elsewhere. Default: 30 milliseconds.
    fn wait(time: Duration) { wait = Some(time); }

    /// Only the whole file: a window is [`Error::Unsupported`].
    fn len(_len: usize) { has_window = true; }

    /// No effect.
    fn reserve(_len: usize) {}
}

impl ExclusiveOptions {
    /// Only the whole file: a window is [`Error::Unsupported`].
    pub fn offset(mut self, offset: u64) -> Self {
        self.has_window |= offset != 0;
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
        Err(Error::unsupported(None, "an unguarded mapping of a file"))
    }

    /// Opens a file: [`Exclusive::open`].
    ///
    /// # Errors
    /// As [`Exclusive::open`].
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Exclusive> {
        if self.has_window {
            let what = "an exclusive mapping of a part of a file";
            return Err(Error::unsupported(Some(path.as_ref()), what));
        }
        let wait = self.wait.unwrap_or(DEFAULT_WAIT);
        // Not every platform has a clock.
        let mut started = None;
        loop {
            match Writable::open(path.as_ref()) {
                Err(Error::Busy { .. })
                    if started.get_or_insert_with(Instant::now).elapsed() < wait =>
                {
                    thread::sleep(RETRY_INTERVAL);
                }
                opened => return opened.map(|file| Exclusive { file }),
            }
        }
    }

    /// Fails: other handles can be excluded only when the file is opened.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn from_owned(&self, _file: File) -> Result<Exclusive> {
        Err(Error::unsupported(
            None,
            "an exclusive mapping of a file that is open already",
        ))
    }
}
