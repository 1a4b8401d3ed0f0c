//! Where the bytes of a draft are while it is written.
//!
//! Filling a shared mapping of a file costs a fault for each 4 KiB; filling memory with huge pages and writing that to
//! the file afterwards is several times faster. So a draft is memory, as long as memory suffices.

use super::pending::Pending;
use crate::anonymous::{Anonymous, HugePages};
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::error::{Error, Result};
use crate::page;
use crate::range::whole_pages;
use crate::region::Region;
use crate::sys::memory::{Pages, Place};
use crate::sys::{file, write};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;

/// One write: the disk starts with it while the next is copied.
const STEP: usize = 8 << 20;

pub(super) enum Store {
    Memory(Anonymous),
    /// A memfd, which knows what of it was touched.
    Sparse(Anonymous),
    /// The unnamed file itself, its blocks granted.
    Mapped {
        region: Region,
        len: usize,
    },
}

impl Store {
    pub(super) fn memory(len: usize) -> Result<Self> {
        let options = Anonymous::options().huge_pages(HugePages::Transparent);
        options.allocate(len).map(Store::Memory)
    }

    pub(super) fn sparse(len: usize) -> Result<Self> {
        Anonymous::shared(len).map(Store::Sparse)
    }

    /// The file has `len` bytes, and stores to them cannot fail.
    pub(super) fn mapped(file: &File, len: usize) -> Result<Self> {
        // At least one page, though it may be behind the end: what is mapped can grow.
        let pages = whole_pages(len.max(1), page::size())?;
        let region = Region::shared(file.as_fd(), pages, Place::Anywhere, Pages::Zeroed)?;
        Ok(Store::Mapped { region, len })
    }

    pub(super) fn is_sparse(&self) -> bool {
        matches!(self, Store::Sparse(_))
    }

    pub(super) fn is_mapped(&self) -> bool {
        matches!(self, Store::Mapped { .. })
    }

    /// The file behind a mapping has that length already.
    pub(super) fn resize(&mut self, new: usize) -> Result<()> {
        match self {
            Store::Memory(memory) | Store::Sparse(memory) => memory.resize(new),
            Store::Mapped { region, len } => {
                match region.resize(new.max(1), page::size()) {
                    // What is behind the end of the file stays mapped, and is never touched.
                    Err(_) if new < *len => {}
                    resized => resized?,
                }
                *len = new;
                Ok(())
            }
        }
    }

    /// From memory to the file, which has `len` bytes and blocks for them.
    pub(super) fn spill(&mut self, file: &File, len: usize) -> Result<()> {
        let mut mapped = Store::mapped(file, len)?;
        mapped[..self.len()].copy_from_slice(self);
        *self = mapped;
        Ok(())
    }

    /// Brings the bytes into the file, which has their length then; `soon`: the disk may start with them.
    pub(super) fn write_to(self, pending: &Pending, soon: bool) -> Result<()> {
        let file = pending.file();
        let error = |call, e| Error::os(call, Some(pending.path()), e);
        match &self {
            Store::Mapped { .. } => Ok(()),
            Store::Memory(memory) => {
                let all = 0..memory.len();
                copy_out(memory, all, file, soon).map_err(|e| error("pwrite", e))
            }
            Store::Sparse(memory) => {
                let sized = write::set_len(file, memory.len() as u64);
                sized.map_err(|e| error("ftruncate", e))?;
                let mut at = 0;
                while let Some(range) = touched(memory, at).map_err(|e| error("lseek", e))? {
                    at = range.end;
                    copy_out(memory, range, file, soon).map_err(|e| error("pwrite", e))?;
                }
                Ok(())
            }
        }
    }
}

fn copy_out(bytes: &[u8], range: Range<usize>, file: &File, soon: bool) -> io::Result<()> {
    for start in range.clone().step_by(STEP) {
        let step = &bytes[start..range.end.min(start + STEP)];
        write::write_all_at(file, step, start as u64)?;
        if soon {
            // It only makes the fsync shorter; what fails here fails there.
            let _ = write::start_writeback(file.as_fd(), start as u64, step.len() as u64);
        }
    }
    Ok(())
}

/// The next part of shared memory that was ever touched, from `from` on.
fn touched(memory: &Anonymous, from: usize) -> io::Result<Option<Range<usize>>> {
    let Some(memfd) = memory.memfd().filter(|_| from < memory.len()) else {
        return Ok(None);
    };
    let data = file::next_data(memfd.as_fd(), from as u64)?;
    Ok(data.and_then(|(start, end)| {
        let end = memory.len().min(usize::try_from(end).ok()?);
        let start = usize::try_from(start).ok()?;
        (start < end).then_some(start..end)
    }))
}

// SAFETY:
// - The bytes are anonymous memory, or mapped inside an unnamed file whose blocks are allocated.
// - Only `&mut self` changes them: the file has no name, and its descriptor is ours. Moving the value does not move them.
#[allow(unsafe_code)]
unsafe impl ByteSlice for Store {
    #[inline]
    fn start_and_len(&self) -> (NonNull<u8>, usize) {
        match self {
            Store::Memory(memory) | Store::Sparse(memory) => memory.start_and_len(),
            Store::Mapped { region, len } => (region.start(), *len),
        }
    }
}

impl_byte_slice!(Store, debug:);
impl_byte_slice_mut!(Store);
