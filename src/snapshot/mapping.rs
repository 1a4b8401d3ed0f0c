//! Advice, residency and locks on a snapshot, whatever holds its bytes.

use super::{Snapshot, Store};
use crate::backing::Backing;
use crate::pages::Pages;

impl Snapshot {
    /// Advice, prefetch, populate, lock and residency of its pages.
    ///
    /// # Examples
    /// ```
    /// let bytes = stillmap::Snapshot::open("Cargo.toml")?;
    /// println!("{:60}", bytes.pages().residency(..)?);
    /// # Ok::<(), stillmap::Error>(())
    /// ```
    pub fn pages(&self) -> Pages<'_> {
        let bytes = &self[..];
        match &self.store {
            Store::Memory(memory) => memory.pages(),
            Store::Mapped(region, Backing::Cloned | Backing::Disk) => {
                let pages = Pages::own(bytes).on_disk();
                pages.with_locks(region.locked_pages())
            }
            Store::Mapped(region, _) => Pages::file(bytes).with_locks(region.locked_pages()),
            Store::Leased(mapping) => {
                let pages = match mapping.backing() {
                    Backing::Memory => Pages::own(bytes),
                    Backing::Cloned | Backing::Disk => Pages::own(bytes).on_disk(),
                    _ => Pages::file(bytes).on_disk(),
                };
                pages.with_locks(mapping.locked_pages())
            }
        }
    }
}
