//! For Windows only: share modes, and methods on handles.

pub(super) mod share_mode;

use super::shared::{Memory, Shared};
use crate::Shareable;
use crate::error::{Error, Result};
use crate::sys::Section;
use std::os::windows::io::{AsHandle, BorrowedHandle};

impl<T: Shareable> Shared<T> {
    /// The value of another process, by the handle of its section. The handle is duplicated.
    ///
    /// # Errors
    /// [`Error::TooSmall`] if the section has fewer bytes, or only reserved ones;
    /// [`Error::Os`] if it cannot be mapped to read and write.
    pub fn from_handle<H: AsHandle>(handle: H) -> Result<Self> {
        let memory = Memory::of_section::<T>(section_of(handle)?, 1)?;
        Ok(Shared::one(memory))
    }
}

impl<A: Shareable> Shared<[A]> {
    /// `len` values of another process, by the handle of their section, which has whole pages. The handle is duplicated.
    ///
    /// # Errors
    /// As [`from_handle`](Shared::from_handle); [`Error::TooLarge`].
    pub fn from_handle_slice<H: AsHandle>(handle: H, len: usize) -> Result<Self> {
        let memory = Memory::of_section::<A>(section_of(handle)?, len)?;
        Ok(Shared::many(memory, len))
    }
}

impl<T: ?Sized + Shareable> Shared<T> {
    /// The handle of the section; `None` if the memory is of this process. It is inheritable if this process has made the
    /// section: a child opens a [`BorrowedHandle`] of the same number.
    pub fn handle(&self) -> Option<BorrowedHandle<'_>> {
        self.section().map(Section::handle)
    }
}

fn section_of<H: AsHandle>(handle: H) -> Result<Section> {
    let section = Section::open(handle.as_handle());
    section.map_err(|e| Error::os("mmap", None, e))
}
