//! The bytes of a file, to be changed in memory: the file never is.
//!
//! A copy-on-write mapping of a live file would not do: pages that were not written to yet show what others write, and
//! truncation takes even those that were. So what is mapped is sealed, or a file of our own.

use crate::backing::Backing;
use crate::budget::{self, fits_memory};
use crate::buffer::Buffer;
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::input::{Copy, Source, Window, clone_of, copy, copy_to_disk};
use crate::pages::Pages;
use crate::region::Region;
use crate::sys::file::{self, Kind, Stat};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

/// So few bytes are read: that is faster than to clone the file and to map the clone.
const READ_MAX: u64 = 256 << 10;

/// A file's bytes as memory of our own: what is stored here is seen by nobody else, and the file never changes; what
/// others write to the file is not seen here.
///
/// A sealed memfd, a file under fs-verity, or a reflink clone of a large file (on xfs and btrfs: at once, however large
/// it is) is mapped copy-on-write: each page takes memory when it is first stored to. Where none of them can be had,
/// the bytes are copied: into memory with huge pages up to half of what is available, beyond that into an unnamed file.
///
/// # Examples
/// ```
/// let mut bytes = stillmap::Private::open("Cargo.toml")?;
/// bytes.make_ascii_uppercase();
/// assert!(bytes.starts_with(b"[PACKAGE]"));
/// assert!(std::fs::read("Cargo.toml")?.starts_with(b"[package]"));
/// # Ok::<(), std::io::Error>(())
/// ```
#[doc(alias = "MAP_PRIVATE")]
pub struct Private {
    store: Store,
}

enum Store {
    Memory(Buffer),
    /// Copy-on-write, `len` bytes from `delta` on, over what does not change.
    Mapped {
        region: Region,
        delta: usize,
        len: usize,
        backing: Backing,
    },
}

impl Private {
    /// The bytes of a file, from its start to its end; of a pipe or a device, all that can be read.
    ///
    /// # Errors
    /// [`Error::IsDirectory`]; [`Error::TooLarge`] for an input without a size that goes on beyond half of the
    /// available memory; [`Error::Os`] for what the kernel refused.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Private::open("Cargo.toml")?;
    /// assert_eq!(&bytes[..], std::fs::read("Cargo.toml")?);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn open<P: AsRef<Path>>(path: P) -> Result<Self> {
        Private::of(&Source::open(path.as_ref())?)
    }

    /// The bytes of an open descriptor, from its current offset to its end; the offset is left there, as reading would
    /// leave it.
    ///
    /// # Errors
    /// As [`open`](Private::open).
    ///
    /// # Examples
    /// ```
    /// let file = std::fs::File::open("Cargo.toml")?;
    /// let mut bytes = stillmap::Private::from_fd(&file)?;
    /// bytes[0] = b'{';
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_fd<F: AsFd>(fd: F) -> Result<Self> {
        Private::of(&Source::descriptor(fd.as_fd()))
    }

    /// What the bytes lie over: [`Sealed`](Backing::Sealed), [`Cloned`](Backing::Cloned), or
    /// [`Memory`](Backing::Memory). It never changes.
    ///
    /// # Examples
    /// ```
    /// let small = stillmap::Private::open("Cargo.toml")?;
    /// assert_eq!(small.backing(), stillmap::Backing::Memory);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn backing(&self) -> Backing {
        match &self.store {
            Store::Memory(_) => Backing::Memory,
            Store::Mapped { backing, .. } => *backing,
        }
    }

    fn of(source: &Source<'_>) -> Result<Self> {
        // A mapping knows no path; its source does.
        let store = Store::of(source).map_err(|e| e.with_path(|| source.name()))?;
        Ok(Private { store })
    }
}

impl Store {
    fn of(source: &Source<'_>) -> Result<Self> {
        let stat = source.stat()?;
        let position = source.position()?;
        match (stat.kind, position) {
            (Kind::Directory, _) => Err(Error::IsDirectory {
                path: source.name(),
            }),
            (Kind::Regular, Some(position)) if stat.size > 0 => {
                let window = Window::new(source, position, 0, None);
                let store = Store::of_file(source, stat, &window)?;
                let end = window.of(stat.size)?.start + store.len() as u64;
                window.leave(source, end)?;
                Ok(store)
            }
            _ => read_to_end(source).map(Store::Memory),
        }
    }

    fn of_file(source: &Source<'_>, stat: Stat, window: &Window) -> Result<Self> {
        let range = window.of(stat.size)?;
        let size = range.end - range.start;
        let len = usize::try_from(size).map_err(|_| Error::TooLarge {
            path: source.name(),
            limit: isize::MAX.unsigned_abs() as u64,
        })?;
        if size > READ_MAX {
            let system = FileSystem::from_fd(source.fd());
            let system = system.map_err(|e| source.error("fstatfs", e))?;
            if stat.verity || system.is_sealed(source.fd()) {
                return Store::mapped(source, source.fd(), range.start, len, Backing::Sealed);
            }
            if let Some(clone) = clone_of(source.fd(), system) {
                // The clone has the size of its own moment.
                let now = file::stat(clone.as_fd()).map_err(|e| source.error("statx", e))?;
                let len = len.min(now.size.saturating_sub(range.start) as usize);
                return Store::mapped(source, clone.as_fd(), range.start, len, Backing::Cloned);
            }
            if !fits_memory(size, None) {
                let copied = copy_to_disk(source.fd(), range, &mut |_| Ok(()));
                let (file, len) = copied.map_err(|e| source.error("copy to an unnamed file", e))?;
                return Store::mapped(source, file.as_fd(), 0, len as usize, Backing::Cloned);
            }
        }
        match copy(source, window, stat, Some(u64::MAX), &mut |_, _| ())?.0 {
            Copy::Buffer(memory) => Ok(Store::Memory(memory)),
            Copy::Disk { .. } => unreachable!("no limit"),
        }
    }

    /// Over a file that does not change from here on.
    fn mapped(
        source: &Source<'_>,
        fd: BorrowedFd<'_>,
        offset: u64,
        len: usize,
        backing: Backing,
    ) -> Result<Self> {
        if len == 0 {
            return Buffer::with_capacity(0).map(Store::Memory);
        }
        let mapped = Region::copy_on_write(fd, offset, len);
        let (region, delta) = mapped.map_err(|e| source.error("mmap", e))?;
        Ok(Store::Mapped {
            region,
            delta,
            len,
            backing,
        })
    }

    fn len(&self) -> usize {
        match self {
            Store::Memory(memory) => memory.len(),
            Store::Mapped { len, .. } => *len,
        }
    }
}

/// What has no size, or says 0.
fn read_to_end(source: &Source<'_>) -> Result<Buffer> {
    let mut memory = Buffer::for_stream()?;
    let mut limit = None;
    loop {
        memory.make_room(usize::MAX)?;
        let n = memory.read_from(usize::MAX, |into| file::read(source.fd(), into));
        if n.map_err(|e| source.error("read", e))? == 0 {
            return memory.finish();
        }
        if memory.len() as u64 > READ_MAX {
            let limit = *limit.get_or_insert_with(budget::default_memory_limit);
            if memory.len() as u64 > limit {
                let path = source.name();
                return Err(Error::TooLarge { path, limit });
            }
        }
    }
}

impl Deref for Private {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.store {
            Store::Memory(memory) => memory.bytes(),
            Store::Mapped {
                region, delta, len, ..
            } => {
                let start = region.start().as_ptr().wrapping_add(*delta);
                // SAFETY:
                // - `len` bytes are mapped from `delta` on, inside the file, which does not change: see `Backing`.
                // - Pages that were stored to are ours alone, and only `&mut self` stores to them.
                #[allow(unsafe_code)]
                unsafe {
                    std::slice::from_raw_parts(start, *len)
                }
            }
        }
    }
}

impl DerefMut for Private {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.store {
            Store::Memory(memory) => memory.bytes_mut(),
            Store::Mapped {
                region, delta, len, ..
            } => {
                let start = region.start().as_ptr().wrapping_add(*delta);
                // SAFETY: as above, and `&mut self` makes it exclusive.
                #[allow(unsafe_code)]
                unsafe {
                    std::slice::from_raw_parts_mut(start, *len)
                }
            }
        }
    }
}

impl Private {
    /// Advice, prefetch, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Private::open("Cargo.toml")?;
    /// assert!(bytes.pages().is_resident(..)?);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        match &self.store {
            Store::Memory(memory) if memory.is_block() => Pages::heap(&self[..]),
            Store::Mapped {
                backing: Backing::Sealed,
                ..
            } => Pages::file(&self[..]),
            Store::Mapped { .. } => Pages::own(&self[..]).on_disk(),
            Store::Memory(_) => Pages::own(&self[..]),
        }
    }
}

impl AsRef<[u8]> for Private {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Private {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Says how many bytes, not which.
impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Private")
            .field("len", &self.len())
            .field("backing", &self.backing())
            .finish()
    }
}
