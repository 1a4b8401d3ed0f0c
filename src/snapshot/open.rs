//! The ways to open a snapshot with the default options.

use super::{Snapshot, SnapshotOptions};
use crate::error::{Error, Result};
use crate::input::Source;
use crate::options::impl_try_from_file;
use std::os::fd::AsFd;
use std::path::Path;

impl Snapshot {
    /// The bytes of a file, from its start to its end.
    ///
    /// # Errors
    /// [`Error::IsDirectory`](crate::Error::IsDirectory); [`Error::TooLarge`](crate::Error::TooLarge) for a stream or device
    /// of more bytes than half of the available memory; [`Error::NoRoom`](crate::Error::NoRoom) for a file that has to be
    /// copied and fits neither into memory nor on a disk; [`Error::Busy`](crate::Error::Busy) for one that this process
    /// edits as an [`Exclusive`](crate::Exclusive); [`Error::Os`](crate::Error::Os) for what the kernel refused.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::open("Cargo.toml")?;
    /// assert_eq!(&bytes[..], std::fs::read("Cargo.toml").unwrap());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Snapshot::options().open(path)
    }

    /// The bytes of standard input, from its current offset to its end.
    ///
    /// They do not include what [`std::io::stdin`] has already buffered.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    ///
    /// # Examples
    /// ```no_run
    /// let bytes = stillmap::Snapshot::stdin()?;
    /// println!("{} bytes", bytes.len());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn stdin() -> Result<Self> {
        Snapshot::options().stdin()
    }

    /// The bytes of a file, or of standard input if the path is `-`.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    ///
    /// # Examples
    /// ```no_run
    /// let input = std::env::args_os().nth(1).unwrap_or("-".into());
    /// println!("{} bytes", stillmap::Snapshot::open_or_stdin(input)?.len());
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn open_or_stdin<P: AsRef<Path>>(path: P) -> Result<Self> {
        if path.as_ref() == Path::new("-") {
            Snapshot::stdin()
        } else {
            Snapshot::open(path)
        }
    }

    /// The bytes of an open descriptor, from its current offset to its end; the offset is moved to the end, as by reading.
    /// The descriptor may be closed afterwards. For the whole file, see [`from_file`](Snapshot::from_file).
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    ///
    /// # Examples
    /// ```
    /// use std::io::Write;
    /// let (reader, mut writer) = std::os::unix::net::UnixStream::pair()?;
    /// writer.write_all(b"through a socket")?;
    /// drop(writer);
    /// assert_eq!(&stillmap::Snapshot::from_fd(reader)?[..], b"through a socket");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(fd: F) -> Result<Self> {
        Snapshot::options().from_fd(fd)
    }

    /// The bytes of a file that is open for reading, from its start to its end, wherever its offset is; the offset is
    /// neither read nor moved. The file may be closed afterwards.
    ///
    /// While `file` is open for writing, its bytes are copied: it might be written to. A file that is not needed any
    /// more can be given up with [`TryFrom`](Snapshot#impl-TryFrom<File>-for-Snapshot), and is mapped then.
    ///
    /// # Errors
    /// As [`open`](Snapshot::open).
    ///
    /// # Examples
    /// ```
    /// use std::io::Write;
    /// let mut file = tempfile::tempfile()?;
    /// file.write_all(b"the offset is at the end")?;
    /// assert_eq!(stillmap::Snapshot::from_file(&file)?.len(), 24);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_file<F: AsFd>(file: F) -> Result<Self> {
        Snapshot::options().from_file(file)
    }

    /// The window, the limits, and which strategies are allowed.
    ///
    /// # Examples
    /// ```
    /// let window = stillmap::Snapshot::options().offset(1).len(7).open("Cargo.toml")?;
    /// assert_eq!(&window[..], b"package");
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn options() -> SnapshotOptions {
        SnapshotOptions::default()
    }

    /// Maps a whole file, wherever the descriptor's offset is, without protection against changes: for files
    /// that the caller knows not to change, where they would be copied otherwise. A window can be mapped with
    /// [`SnapshotOptions::map_unguarded`].
    ///
    /// # Errors
    /// [`Error::NotMappable`] for what is not a regular file; [`Error::IsDirectory`]; [`Error::Os`] for what the kernel refused.
    ///
    /// # Safety
    /// As long as the snapshot lives, no process, this one included, writes to the file, truncates it, or punches holes
    /// into it. Otherwise bytes change under a `&[u8]`, which is undefined behaviour, or the process dies of SIGBUS.
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// // SAFETY: no process edits the manifest while its tests run.
    /// let bytes = unsafe { stillmap::Snapshot::map_unguarded(&file) }?;
    /// assert!(bytes.starts_with(b"[package]"));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[allow(unsafe_code)]
    pub unsafe fn map_unguarded<F: AsFd>(fd: F) -> Result<Self> {
        // SAFETY: the caller's promise is the same.
        unsafe { Snapshot::options().map_unguarded(fd) }
    }
}

impl_try_from_file! {
    /// The whole file, wherever its offset is. The descriptor is given up, so a file that only this process had open for
    /// writing can be leased.
    Snapshot, file => Snapshot::options().open_source(Source::from_owned(file), &mut |_, _| Ok(()))
}
