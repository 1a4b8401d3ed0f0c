//! The ways to open an `Exclusive`.

use super::Exclusive;
use super::open::{self, Request};
use crate::error::{Error, Result};
use crate::options::{impl_try_from_file, setters};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

impl Exclusive {
    /// Opens an existing file for reading and writing, and blocks every other open. A process that holds a lease on it (by
    /// an `Exclusive` or a `Snapshot`) is asked to release it, as by every open, and this call blocks until then.
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy) if the file is open elsewhere, also in this process, for longer than some
    /// milliseconds, and at once if this process has an `Exclusive` of it;
    /// [`Error::Unprotectable`](crate::Error::Unprotectable) where no lease is granted;
    /// [`Error::NotMappable`](crate::Error::NotMappable) for what is not a regular file;
    /// [`Error::IsDirectory`](crate::Error::IsDirectory); [`Error::Os`](crate::Error::Os) for what the kernel refused:
    /// the open, or the blocks for the file's holes.
    ///
    /// # Examples
    /// ```
    /// let error = stillmap::Exclusive::open("/proc/self/comm").unwrap_err();
    /// assert!(matches!(error, stillmap::Error::Unprotectable { .. }));
    /// ```
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Exclusive::options().open(path)
    }

    /// Like [`open`](Exclusive::open), without waiting: fails with [`Busy`](crate::Error::Busy) at once if the file is open
    /// elsewhere.
    ///
    /// # Errors
    /// As [`open`](Exclusive::open).
    ///
    /// # Examples
    /// ```no_run
    /// match stillmap::Exclusive::try_open("data") {
    ///     Err(stillmap::Error::Busy { .. }) => println!("another time"),
    ///     file => file?.close()?,
    /// }
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn try_open<P: AsRef<Path>>(path: P) -> Result<Self> {
        let options = Exclusive::options().wait(Duration::ZERO);
        options.open(path)
    }

    /// A window of the file, room to grow, and how long to wait.
    ///
    /// # Examples
    /// ```no_run
    /// let second = std::time::Duration::from_secs(1);
    /// stillmap::Exclusive::options().wait(second).open("data")?.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn options() -> ExclusiveOptions {
        ExclusiveOptions::default()
    }

    /// Maps a whole file that is open for reading and writing, with nothing that keeps other processes out: on any file
    /// system, for any owner. [`backing`](Exclusive::backing) is [`Backing::Unguarded`](crate::Backing::Unguarded), and
    /// holes stay holes.
    ///
    /// # Errors
    /// [`Error::NotMappable`](crate::Error::NotMappable) for what is not a regular file;
    /// [`Error::IsDirectory`](crate::Error::IsDirectory); [`Error::Os`](crate::Error::Os) for what the kernel refused.
    ///
    /// # Safety
    /// As long as the value lives:
    /// - No process writes to the file or shortens it in any way, except through this value.
    /// - The disk has room for the holes that are stored to: a store without space raises SIGBUS.
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("table");
    /// std::fs::write(&path, [0; 8])?;
    /// let file = std::fs::File::options().read(true).write(true).open(&path)?;
    /// // SAFETY: the file is in a directory of our own.
    /// let mut table = unsafe { stillmap::Exclusive::map_unguarded(&file) }?;
    /// table[7] = 1;
    /// table.close()?;
    /// assert_eq!(std::fs::read(&path)?[7], 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[doc(alias("map_mut", "MmapMut"))]
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFd>(file: F) -> Result<Self> {
        // SAFETY: the caller's promise.
        unsafe { Exclusive::options().map_unguarded(file) }
    }
}

impl_try_from_file! {
    /// A file that is open already, with the default options: [`ExclusiveOptions::from_owned`].
    ///
    /// # Examples
    /// ```no_run
    /// let file = std::fs::File::options().read(true).write(true).open("data")?;
    /// let mut file = stillmap::Exclusive::try_from(file)?;
    /// file[0] += 1;
    /// file.close()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    Exclusive, file => Exclusive::options().from_owned(file)
}

/// Options for opening an [`Exclusive`]; made by [`Exclusive::options`].
///
/// # Examples
/// ```no_run
/// let options = stillmap::Exclusive::options().wait(std::time::Duration::from_secs(1));
/// let mut file = options.open("data")?;
/// file[0] += 1;
/// file.close()?;
/// # Ok::<(), stillmap::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ExclusiveOptions {
    request: Request,
}

setters! {
    impl ExclusiveOptions;

    /// Skips the first `offset` bytes of the file; they need not be whole pages. The lease is for the whole file. Only
    /// the window gets blocks for its holes, and only it is copied if the lease is lost.
    ///
    /// # Examples
    /// ```no_run
    /// // The last pages of a large file.
    /// let mut index = stillmap::Exclusive::options().offset(1 << 32).open("database")?;
    /// index[0] = 1;
    /// index.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn offset(offset: u64) { request.offset = offset; }

    /// Takes `len` bytes, no more and no less; the default is all up to the end.
    ///
    /// # Examples
    /// ```no_run
    /// let mut header = stillmap::Exclusive::options().len(512).open("database")?;
    /// header[0] = 1;
    /// header.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn len(len: usize) { request.len = Some(len); }

    /// Reserves address space for `len` bytes, though the file is shorter: up to that length,
    /// [`resize`](Exclusive::resize) does not move the bytes. It takes neither memory nor disk space. Default 0.
    ///
    /// # Examples
    /// ```no_run
    /// let mut log = stillmap::Exclusive::options().reserve(1 << 30).open("log")?;
    /// let (start, end) = (log.as_ptr(), log.len());
    /// log.resize(end + (1 << 20))?;
    /// assert_eq!(log.as_ptr(), start);
    /// log.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn reserve(len: usize) { request.reserved = len; }

    /// Maximum time to wait until no other descriptor has the file open, and until a lease of another process is released;
    /// then it is [`Busy`](crate::Error::Busy). Default: about 30 milliseconds for an open file, as a child that was
    /// forked and has not executed its program yet has it open; for a lease, as long as open(2) blocks.
    ///
    /// # Examples
    /// ```no_run
    /// let options = stillmap::Exclusive::options().wait(std::time::Duration::from_secs(1));
    /// options.open("data")?.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    fn wait(time: Duration) { request.wait = Some(time); }
}

impl ExclusiveOptions {
    /// Opens a file: [`Exclusive::open`].
    ///
    /// # Errors
    /// As [`Exclusive::open`]; [`Error::OutOfBounds`](crate::Error::OutOfBounds) for a window that does not lie inside the
    /// file; [`Error::TooLarge`](crate::Error::TooLarge) for a [`reserve`](ExclusiveOptions::reserve) beyond the address
    /// space.
    ///
    /// # Examples
    /// ```no_run
    /// stillmap::Exclusive::options().open("data")?.close()?;
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(&self, path: P) -> Result<Exclusive> {
        open::path(path.as_ref(), self.request)
    }

    /// A file that is open already, for reading and writing. The descriptor is closed; if there are duplicates of it
    /// (`try_clone`), the file is [`Busy`](crate::Error::Busy).
    ///
    /// # Errors
    /// As [`open`](ExclusiveOptions::open); [`Error::Unsupported`](crate::Error::Unsupported) without /proc.
    ///
    /// # Examples
    /// ```no_run
    /// let file = std::fs::File::options().read(true).write(true).open("data")?;
    /// stillmap::Exclusive::options().len(512).from_owned(file)?.close()?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_owned(&self, file: File) -> Result<Exclusive> {
        open::file(file, self.request)
    }

    /// Maps a file without a lease: [`Exclusive::map_unguarded`]. It never waits.
    ///
    /// # Errors
    /// As [`Exclusive::map_unguarded`], and for the options as [`open`](ExclusiveOptions::open).
    ///
    /// # Safety
    /// As [`Exclusive::map_unguarded`], for the window. With [`reserve`](ExclusiveOptions::reserve), too, no process makes
    /// the file longer but this value.
    ///
    /// # Examples
    /// ```
    /// # let directory = tempfile::tempdir()?;
    /// # let path = directory.path().join("table");
    /// std::fs::write(&path, [0; 8])?;
    /// let file = std::fs::File::options().read(true).write(true).open(&path)?;
    /// let options = stillmap::Exclusive::options().offset(6).reserve(1 << 20);
    /// // SAFETY: the file is in a directory of our own.
    /// let mut table = unsafe { options.map_unguarded(&file) }?;
    /// table[1] = 1;
    /// table.close()?;
    /// assert_eq!(std::fs::read(&path)?[7], 1);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFd>(&self, file: F) -> Result<Exclusive> {
        open::unguarded(file.as_fd(), self.request)
    }
}
