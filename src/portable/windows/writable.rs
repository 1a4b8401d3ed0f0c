//! A file that no other handle has open, mapped for writing.

use super::locked::{FileSystem, Mapping, is, is_in_transaction, is_trusted};
use super::system::{self, Protection};
use crate::bytes::ByteSlice;
use crate::error::{Error, Result};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::os::windows::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use windows_sys::Win32::Foundation::ERROR_SHARING_VIOLATION;
use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_ARCHIVE, FILE_ATTRIBUTE_HIDDEN, FILE_ATTRIBUTE_NORMAL,
    FILE_ATTRIBUTE_NOT_CONTENT_INDEXED, FILE_ATTRIBUTE_SYSTEM, FILE_ATTRIBUTE_TEMPORARY,
};

/// What a file may be and still have a place on the volume for each of its bytes: a full disk would lose what is stored
/// into sparse, compressed and deduplicated files.
const ALLOCATED_ATTRIBUTES: u32 = FILE_ATTRIBUTE_HIDDEN
    | FILE_ATTRIBUTE_SYSTEM
    | FILE_ATTRIBUTE_ARCHIVE
    | FILE_ATTRIBUTE_NORMAL
    | FILE_ATTRIBUTE_TEMPORARY
    | FILE_ATTRIBUTE_NOT_CONTENT_INDEXED;

/// As long as it lives, every other open of the file fails: its handle shares nothing.
pub(in super::super) struct Writable {
    /// Dropped first: without the handle nothing keeps others out. `None` for no bytes.
    mapping: Option<Mapping>,
    file: File,
    path: PathBuf,
}

impl Writable {
    /// Fails with `Busy` if any handle of the file is open, or a writable view of it is left.
    pub(in super::super) fn open(path: &Path) -> Result<Self> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .share_mode(0)
            .open(path);
        let file = match opened {
            Err(_) if path.is_dir() => return Err(Error::is_directory(Some(path))),
            Err(e) if is(&e, ERROR_SHARING_VIOLATION) => {
                return Err(Error::busy(Some(path), "it is open or mapped elsewhere"));
            }
            opened => opened.map_err(|e| Error::os("open", Some(path), e))?,
        };
        let stat = file
            .metadata()
            .map_err(|e| Error::os("fstat", Some(path), e))?;
        // Also for pipes and consoles, which have no file system.
        if is_trusted(&file) != Some(FileSystem::Ntfs) {
            let why = "only local NTFS volumes keep others out and have a place for what is stored";
            return Err(Error::unprotectable(Some(path), why));
        }
        if stat.file_attributes() & !ALLOCATED_ATTRIBUTES != 0 {
            let why = "a sparse, compressed or other special file has no place for what is stored";
            return Err(Error::unprotectable(Some(path), why));
        }
        if is_in_transaction(&file) {
            return Err(Error::busy(Some(path), "it is in a transaction"));
        }
        let mut opened = Writable {
            mapping: None,
            file,
            path: path.into(),
        };
        let len =
            usize::try_from(stat.len()).map_err(|_| Error::too_large_to_address(Some(path)))?;
        opened.map(len)?;
        Ok(opened)
    }

    fn map(&mut self, len: usize) -> Result<()> {
        // Two views for writing would be two owners of the bytes.
        self.mapping = None;
        if len > 0 {
            let mapped = Mapping::new(&self.file, 0, len, Protection::Write);
            let path = Some(&*self.path);
            self.mapping = Some(mapped.map_err(|e| Error::os("mmap", path, e))?);
        }
        Ok(())
    }

    /// A file cannot be cut while it is mapped. If the new length cannot be mapped, there are no bytes until a later call
    /// succeeds.
    pub(in super::super) fn resize(&mut self, len: usize) -> Result<()> {
        let old = self.start_and_len().1;
        self.mapping = None;
        match self.file.set_len(len as u64) {
            Ok(()) => self.map(len),
            Err(e) => {
                self.map(old)?;
                Err(Error::os("ftruncate", Some(&self.path), e))
            }
        }
    }

    /// Writes a range to the file system, and to the device if `sync`.
    pub(in super::super) fn flush(&self, range: Range<usize>, sync: bool) -> Result<()> {
        let path = Some(&*self.path);
        if let Some(mapping) = self.mapping.as_ref().filter(|_| !range.is_empty()) {
            system::flush(&mapping[range]).map_err(|e| Error::os("msync", path, e))?;
        }
        if sync {
            self.file
                .sync_all()
                .map_err(|e| Error::os("fsync", path, e))?;
        }
        Ok(())
    }
}

// SAFETY: the bytes of `mapping`, or none. `file` keeps all others from writing to them.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Writable {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        match &self.mapping {
            Some(mapping) => mapping.start_and_len(),
            None => (NonNull::dangling(), 0),
        }
    }
}
