//! Where the bytes of a draft are while it is written.
//!
//! Filling a shared mapping of a file costs a fault for each 4 KiB; filling memory with huge pages and writing that to
//! the file afterwards is several times faster. So a draft is memory, as long as memory suffices.

use crate::anonymous::Anonymous;
use crate::bytes::{ByteSlice, impl_byte_slice, impl_byte_slice_mut};
use crate::enums::HugePages;
use crate::error::{Error, Result};
use crate::page;
use crate::range::whole_pages;
use crate::region::Region;
use crate::sys::memory::{self, Address, PageKind};
use crate::sys::{file, sync, write};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;

/// Bytes passed to one write: the disk starts with them while the next are copied.
const WRITE_CHUNK: usize = 8 << 20;

/// Bytes that are compared with those of a clone at a time; what is equal keeps its blocks.
const COMPARE_CHUNK: usize = 64 << 10;

pub(super) enum Store {
    Memory(Anonymous),
    /// A memfd; `SEEK_DATA` reports which parts were written.
    Sparse(Anonymous),
    /// The unnamed file itself, with blocks for all its bytes.
    Mapped {
        region: Region,
        len: usize,
    },
    /// A copy-on-write mapping of the unnamed file, which is not open for writing any more.
    Detached {
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
        let region = map(file, len)?;
        Ok(Store::Mapped { region, len })
    }

    pub(super) fn is_sparse(&self) -> bool {
        matches!(self, Store::Sparse(_))
    }

    pub(super) fn is_mapped(&self) -> bool {
        matches!(self, Store::Mapped { .. } | Store::Detached { .. })
    }

    /// The file behind a mapping has that length already.
    pub(super) fn resize(&mut self, new: usize) -> Result<()> {
        match self {
            Store::Memory(memory) | Store::Sparse(memory) => memory.resize(new),
            Store::Mapped { region, len } | Store::Detached { region, len } => {
                match region.resize(new.max(1), page::size()) {
                    // Pages beyond the end of the file stay mapped, and are never touched.
                    Err(_) if new < *len => {}
                    resized => resized?,
                }
                *len = new;
                Ok(())
            }
        }
    }

    /// A copy of the bytes in the file, which has `len` bytes and blocks for them.
    pub(super) fn copied_to(&self, file: &File, len: usize) -> Result<Self> {
        let mut mapped = Store::mapped(file, len)?;
        let same = self.len().min(len);
        mapped[..same].copy_from_slice(&self[..same]);
        Ok(mapped)
    }

    /// Replaces the mapping of a file by one of `reader`, the same file opened for reading only.
    pub(super) fn detach(&mut self, reader: &File) -> Result<()> {
        if let Store::Mapped { len, .. } = *self {
            let mapped = Region::copy_on_write(reader.as_fd(), 0, len.max(1));
            let (region, _) = mapped.map_err(|e| Error::os("mmap", None, e))?;
            *self = Store::Detached { region, len };
        }
        Ok(())
    }

    /// The opposite, for the same file opened for writing.
    pub(super) fn attach(&mut self, file: &File) -> Result<()> {
        if let Store::Detached { len, .. } = *self {
            *self = Store::mapped(file, len)?;
        }
        Ok(())
    }

    /// Reads the bytes of a mapped store into memory, because other processes can change the file now. If there is no memory
    /// for that, the bytes are lost.
    pub(super) fn read_back(&mut self, file: &File) {
        use std::os::unix::fs::FileExt;
        let (Store::Mapped { len, .. } | Store::Detached { len, .. }) = *self else {
            return;
        };
        let read = Store::memory(len).and_then(|mut memory| {
            let read = file.read_exact_at(&mut memory, 0);
            read.map(|()| memory)
                .map_err(|e| Error::os("pread", None, e))
        });
        *self = read.unwrap_or_else(|_| Store::Detached {
            region: Region::empty(),
            len: 0,
        });
    }

    /// Writes all bytes into the file and gives it their length, without regard to what is in it.
    /// `start_writeback`: the disk starts with them.
    pub(super) fn write_to(
        &self,
        file: &File,
        is_clone: bool,
        start_writeback: bool,
    ) -> std::result::Result<(), (&'static str, io::Error)> {
        let (len, failed) = (self.len(), |operation| move |e| (operation, e));
        match self {
            Store::Mapped { .. } => {}
            Store::Memory(memory) if is_clone => {
                copy_changes(memory, file).map_err(failed("pwrite"))?;
            }
            Store::Memory(_) | Store::Detached { .. } => {
                let copied = copy_out(self, 0..len, file, start_writeback);
                copied.map_err(failed("pwrite"))?;
            }
            Store::Sparse(memory) => {
                // Only what was written is copied. A commit that failed may have left other bytes.
                let emptied = write::set_len(file, 0);
                let sized = emptied.and_then(|()| write::set_len(file, len as u64));
                sized.map_err(failed("ftruncate"))?;
                let mut at = 0;
                while let Some(range) = written(memory, at, len).map_err(failed("lseek"))? {
                    at = range.end;
                    let copied = copy_out(memory, range, file, start_writeback);
                    copied.map_err(failed("pwrite"))?;
                }
            }
        }
        let size = file::stat(file.as_fd()).map_err(failed("fstat"))?.size;
        if size != len as u64 {
            write::set_len(file, len as u64).map_err(failed("ftruncate"))?;
        }
        Ok(())
    }
}

/// Maps at least one page, even beyond the end of the file, so that the mapping can grow.
fn map(file: &File, len: usize) -> Result<Region> {
    let pages = whole_pages(len.max(1), page::size())?;
    Region::shared(file.as_fd(), pages, Address::Anywhere, PageKind::Zeroed)
}

fn copy_out(
    bytes: &[u8],
    range: Range<usize>,
    file: &File,
    start_writeback: bool,
) -> io::Result<()> {
    for start in range.clone().step_by(WRITE_CHUNK) {
        let chunk = &bytes[start..range.end.min(start + WRITE_CHUNK)];
        write::write_all_at(file, chunk, start as u64)?;
        if start_writeback {
            // It only makes the fsync shorter; an error here appears there again.
            let _ = sync::start_writeback(file.as_fd(), start as u64, chunk.len() as u64);
        }
    }
    Ok(())
}

/// Writes only where the file has other bytes.
fn copy_changes(bytes: &[u8], file: &File) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let mut there = memory::heap_zeros(COMPARE_CHUNK)?;
    for (number, chunk) in bytes.chunks(COMPARE_CHUNK).enumerate() {
        let start = (number * COMPARE_CHUNK) as u64;
        let n = file.read_at(&mut there[..chunk.len()], start)?;
        if there[..n] != *chunk {
            write::write_all_at(file, chunk, start)?;
        }
    }
    Ok(())
}

/// The next part of the first `len` bytes of a memfd that was ever written to, at `from` or later.
fn written(memory: &Anonymous, from: usize, len: usize) -> io::Result<Option<Range<usize>>> {
    let Some(memfd) = memory.memfd().filter(|_| from < len) else {
        return Ok(None);
    };
    let data = file::next_data(memfd.as_fd(), from as u64)?;
    Ok(data.and_then(|(start, end)| {
        let end = len.min(usize::try_from(end).ok()?);
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
            Store::Mapped { region, len } | Store::Detached { region, len } => {
                (region.start(), *len)
            }
        }
    }
}

impl_byte_slice!(Store, debug:);
impl_byte_slice_mut!(Store);
