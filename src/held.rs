//! The bytes of a `Snapshot` or `Private`, and their owner.
#![allow(unsafe_code)]

use crate::backing::Backing;
use crate::buffer::Buffer;
use crate::lease::read::LeasedMapping;
use crate::pages::Pages;
use crate::reason::Reason;
use crate::region::Region;
use std::ptr::NonNull;

/// The bytes of an input.
pub(crate) struct Opened {
    pub(crate) bytes: Held,
    /// False if the file changed while it was copied.
    pub(crate) is_consistent: bool,
    /// Why the bytes are not mapped, or not leased.
    pub(crate) reason: Option<Reason>,
}

/// Bytes at an address that does not change, and their owner.
pub(crate) struct Held {
    start: NonNull<u8>,
    len: usize,
    owner: Owner,
}

enum Owner {
    Buffer(Buffer),
    Mapped(Region, Backing),
    Leased(LeasedMapping),
}

// SAFETY: `&Held` only reads the bytes, and no other process changes them, see `Backing`. They are written only
// through `&mut`, if they are memory or a private mapping.
unsafe impl Send for Held {}
// SAFETY: as above.
unsafe impl Sync for Held {}

impl Held {
    pub(crate) fn buffer(buffer: Buffer) -> Self {
        Held {
            start: buffer.start(),
            len: buffer.len(),
            owner: Owner::Buffer(buffer),
        }
    }

    /// `len` bytes from `offset_in_mapping` on, in a mapping whose bytes do not change.
    pub(crate) fn mapped(
        region: Region,
        offset_in_mapping: usize,
        len: usize,
        backing: Backing,
    ) -> Self {
        debug_assert!(offset_in_mapping + len <= region.len());
        Held {
            // SAFETY: `offset_in_mapping` lies inside the mapping.
            start: unsafe { region.start().add(offset_in_mapping) },
            len,
            owner: Owner::Mapped(region, backing),
        }
    }

    /// `len` bytes from `offset_in_mapping` on, in a mapping under a lease.
    pub(crate) fn leased(mapping: LeasedMapping, offset_in_mapping: usize, len: usize) -> Self {
        Held {
            // SAFETY: `offset_in_mapping` lies inside the mapping, whose address does not change.
            start: unsafe { mapping.start().add(offset_in_mapping) },
            len,
            owner: Owner::Leased(mapping),
        }
    }

    #[inline]
    pub(crate) fn start_and_len(&self) -> (NonNull<u8>, usize) {
        (self.start, self.len)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// What keeps the bytes from changing now.
    pub(crate) fn backing(&self) -> Backing {
        match &self.owner {
            Owner::Buffer(_) => Backing::Memory,
            Owner::Mapped(_, backing) => *backing,
            Owner::Leased(mapping) => mapping.backing(),
        }
    }

    /// The mapping, if it was made under a lease.
    pub(crate) fn leased_mapping(&self) -> Option<&LeasedMapping> {
        match &self.owner {
            Owner::Leased(mapping) => Some(mapping),
            Owner::Buffer(_) | Owner::Mapped(..) => None,
        }
    }

    pub(crate) fn pages(&self) -> Pages<'_> {
        let locked = match &self.owner {
            Owner::Buffer(buffer) => return buffer.pages(),
            Owner::Mapped(region, _) => region.locked_pages(),
            Owner::Leased(mapping) => mapping.locked_pages(),
        };
        // SAFETY: initialised by a read, or mapped inside the file; `owner` keeps them while `self` is borrowed.
        let bytes = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) };
        let pages = match self.backing() {
            Backing::Memory => Pages::own(bytes),
            Backing::Cloned | Backing::Disk => Pages::own(bytes).on_disk(),
            Backing::Leased => Pages::file(bytes).on_disk(),
            _ => Pages::file(bytes),
        };
        pages.with_locks(locked)
    }
}
