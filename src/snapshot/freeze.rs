//! From writable memory to bytes that do not change.

use super::Snapshot;
use crate::anonymous::Anonymous;
use crate::error::Result;
use crate::replica::Memory;

impl Anonymous {
    /// Read-only from here on. Private memory is kept and only changes its protection; shared memory is copied,
    /// since a forked child may still hold it writable.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if there is no memory for the copy.
    ///
    /// # Examples
    /// ```
    /// let mut memory = folio::Anonymous::new(3)?;
    /// memory.copy_from_slice(b"abc");
    /// let frozen = memory.freeze()?;
    /// assert_eq!(&frozen[..], b"abc");
    /// # Ok::<(), folio::Error>(())
    /// ```
    pub fn freeze(self) -> Result<Snapshot> {
        let memory = match self.is_shared() {
            true => Memory::copy_of(&self)?,
            false => {
                let (mut region, len) = self.into_region();
                region.protect_read_only()?;
                Memory::from_region(region, len)
            }
        };
        Ok(Snapshot::memory(memory, true))
    }
}
