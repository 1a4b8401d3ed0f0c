//! Advice, residency and locks on a snapshot, whatever holds its bytes.

use super::{Snapshot, Store};
use crate::backing::Backing;
use crate::pages::Pages;

impl Snapshot {
    /// Advice, prefetch, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::open("Cargo.toml")?;
    /// println!("{:60}", bytes.pages().residency(..)?);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        let bytes = &self[..];
        match &self.store {
            Store::Memory(memory) if memory.is_block() => Pages::heap(bytes),
            Store::Memory(_) => Pages::own(bytes),
            Store::Mapped(_, Backing::Cloned | Backing::Disk) => Pages::own(bytes).on_disk(),
            Store::Mapped(..) => Pages::file(bytes),
            Store::Leased(guarded) => match guarded.backing() {
                Backing::Memory => Pages::own(bytes),
                Backing::Cloned | Backing::Disk => Pages::own(bytes).on_disk(),
                _ => Pages::file(bytes).on_disk(),
            },
        }
    }
}
