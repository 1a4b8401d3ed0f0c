//! The mapping behind a value: which files can be mapped, and where in the mapping the value is.

use super::{Shareable, Shared, SharedMapping};
use crate::edited_files::check_not_edited;
use crate::error::{Error, Result};
use crate::file_system::FileSystem;
use crate::page;
use crate::range::check_window;
use crate::region::Region;
use crate::sigbus::FaultTolerantMapping;
use crate::sys;
use crate::sys::file::{self, FileType, Stat};
use std::alloc::Layout;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

/// The bytes of a file to map.
pub(super) struct SharedWindow {
    offset: u64,
    /// Bytes; `None` for all elements up to the end of the file.
    len: Option<usize>,
    element: Layout,
}

impl SharedWindow {
    pub(super) fn of_value<T>(offset: u64) -> Self {
        SharedWindow {
            offset,
            len: Some(size_of::<T>()),
            element: Layout::new::<T>(),
        }
    }

    /// `len` counts elements.
    pub(super) fn of_slice<A>(offset: u64, len: Option<usize>) -> Result<Self> {
        Ok(SharedWindow {
            offset,
            len: len.map(bytes_of::<A>).transpose()?,
            element: Layout::new::<A>(),
        })
    }

    /// Its length in bytes in a file of `size` bytes, or why it cannot be mapped.
    fn len_in_file(&self, size: u64) -> Result<usize> {
        let len = self.len.map(|len| len as u64);
        let window = check_window(self.offset, len, size);
        let needed = self.offset.saturating_add(len.unwrap_or(0));
        let window = window.map_err(|_| Error::too_small(None, needed, size))?;
        if self.offset % self.element.align() as u64 != 0 {
            return Err(Error::misaligned(self.offset, self.element.align()));
        }
        let found = window.end - window.start;
        let multiple_of = self.element.size();
        if self.len.is_none() && (multiple_of == 0 || found % multiple_of as u64 != 0) {
            return Err(Error::wrong_size(None, found, multiple_of));
        }
        usize::try_from(found).map_err(|_| Error::too_large_to_address(None))
    }
}

/// A mapping starts on a page, and at no multiple of more.
pub(super) fn check_align(element: Layout) -> Result<()> {
    if element.align() <= page::size() {
        return Ok(());
    }
    Err(Error::misaligned(page::size() as u64, element.align()))
}

/// The size of `len` elements, in bytes.
pub(super) fn bytes_of<A>(len: usize) -> Result<usize> {
    let bytes = len.checked_mul(size_of::<A>());
    bytes
        .filter(|&bytes| isize::try_from(bytes).is_ok())
        .ok_or_else(|| Error::too_large_to_address(None))
}

/// `len` bytes that are mapped, readable and writable, and whose start is aligned as was asked for.
pub(super) struct MappedBytes {
    memory: SharedMapping,
    /// The first of them.
    start: NonNull<u8>,
    len: usize,
    fd: Option<OwnedFd>,
    /// Their offset in the file.
    offset: u64,
    path: Option<PathBuf>,
}

impl MappedBytes {
    pub(super) fn anonymous(len: usize, element: Layout) -> Result<Self> {
        // A memfd whose descriptor is closed; unlike MAP_ANONYMOUS it is made by the same calls as the others.
        let mapped = MappedBytes::memfd("stillmap", len, element)?;
        Ok(MappedBytes { fd: None, ..mapped })
    }

    pub(super) fn memfd(name: &str, len: usize, element: Layout) -> Result<Self> {
        let error = |operation, e| Error::os(operation, None, e);
        let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let name = CString::new(name).map_err(|e| error("memfd_create", invalid(e)))?;
        let memfd = file::memfd(&name).map_err(|e| error("memfd_create", e))?;
        sys::write::set_len(&memfd, len as u64).map_err(|e| error("ftruncate", e))?;
        let fd = OwnedFd::from(memfd);
        file::add_seals(fd.as_fd(), libc::F_SEAL_SHRINK).map_err(|e| error("fcntl", e))?;
        let whole = SharedWindow {
            offset: 0,
            len: Some(len),
            element,
        };
        MappedBytes::file(fd, None, &whole)
    }

    pub(super) fn file(fd: OwnedFd, path: Option<&Path>, window: &SharedWindow) -> Result<Self> {
        let path = path.map(Path::to_path_buf);
        let name = || path.clone().or_else(|| file::name(fd.as_fd()));
        let mapped = map_window(fd.as_fd(), window).map_err(|e| e.with_path(name))?;
        let (memory, start, len) = mapped;
        Ok(MappedBytes {
            memory,
            start,
            len,
            fd: Some(fd),
            offset: window.offset,
            path,
        })
    }

    pub(super) fn into_value<T: Shareable>(self) -> Shared<T> {
        debug_assert_eq!(self.len, size_of::<T>());
        let value = self.start.cast();
        self.into_shared(value)
    }

    pub(super) fn into_slice<A: Shareable>(self) -> Shared<[A]> {
        // Zero-sized elements: length 0.
        let len = self.len.checked_div(size_of::<A>()).unwrap_or(0);
        let value = NonNull::slice_from_raw_parts(self.start.cast(), len);
        self.into_shared(value)
    }

    fn into_shared<T: ?Sized + Shareable>(self, value: NonNull<T>) -> Shared<T> {
        Shared {
            value,
            memory: self.memory,
            fd: self.fd,
            offset: self.offset,
            path: self.path,
        }
    }
}

/// Maps a window of a file, if it can be shared; second and third, its first byte and its length.
fn map_window(
    fd: BorrowedFd<'_>,
    window: &SharedWindow,
) -> Result<(SharedMapping, NonNull<u8>, usize)> {
    check_align(window.element)?;
    // The seals are read before the size: a seal that is there holds for the size that is read then.
    let seals = file::seals(fd);
    let stat = check_file(fd, seals)?;
    let len = window.len_in_file(stat.size)?;
    let (region, offset_in_page) = if len > 0 {
        Region::shared_window(fd, window.offset, len)?
    } else {
        (Region::empty(), 0)
    };
    // SAFETY: `offset_in_page` is in the first page of the mapping, or 0.
    #[allow(unsafe_code)]
    let start = unsafe { region.start().add(offset_in_page) };
    debug_assert!(start.as_ptr().addr() % window.element.align() == 0);
    let memory = if len == 0 || seals & libc::F_SEAL_SHRINK != 0 {
        SharedMapping::Unshrinkable(region)
    } else {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: `Shared` makes references to atomics only.
        #[allow(unsafe_code)]
        let mapping = unsafe { FaultTolerantMapping::new(region, protection) };
        SharedMapping::FaultTolerant(mapping?)
    };
    Ok((memory, start, len))
}

/// Whether a file with these seals can be mapped shared and writable.
pub(super) fn check_file(fd: BorrowedFd<'_>, seals: i32) -> Result<Stat> {
    let not_mappable = |what| Err(Error::not_mappable(None, what));
    let stat = file::stat(fd).map_err(|e| Error::os("fstat", None, e))?;
    match stat.kind {
        FileType::Regular => {}
        FileType::Directory => return Err(Error::is_directory(None)),
        FileType::Block | FileType::Fifo | FileType::Other => {
            return Err(Error::not_a_regular_file(None));
        }
    }
    if !sys::descriptor::is_read_write(fd).map_err(|e| Error::os("fcntl", None, e))? {
        return not_mappable("it is not open for reading and writing");
    }
    if seals & (libc::F_SEAL_WRITE | libc::F_SEAL_FUTURE_WRITE) != 0 {
        return not_mappable("it is sealed against writing");
    }
    match FileSystem::from_stat(fd, &stat).map_err(|e| Error::os("fstatfs", None, e))? {
        FileSystem::Hugetlbfs => not_mappable("it is made of reserved huge pages"),
        FileSystem::Kernel => not_mappable("it is not a file of bytes"),
        _ => Ok(stat),
    }
}

pub(super) fn open_file(path: &Path) -> Result<OwnedFd> {
    check_not_edited(path)?;
    file::open_read_write(path).map_err(|e| Error::open_read_write(Some(path), e))
}
