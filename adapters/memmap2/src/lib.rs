//! The names of memmap2 0.9 over stillmap.
//!
//! A program changes its `use` line first and takes the `unsafe` out later:
//!
//! ```
//! use stillmap_memmap2::Mmap; // was: use memmap2::Mmap;
//! # fn main() -> std::io::Result<()> {
//! let file = std::fs::File::open("Cargo.toml")?;
//! let map = Mmap::map(&file)?; // was: unsafe { Mmap::map(&file)? }
//! assert!(map.starts_with(b"[workspace]"));
//! # Ok(())
//! # }
//! ```
//!
//! [`Mmap::map`] is safe: its bytes never change, and a truncated file does not end the process (see
//! [`stillmap::Snapshot`]). A writable mapping of a file ([`MmapMut::map_mut`], [`MmapRaw`]) is shared with every process
//! that has the file open, and stays `unsafe` or a raw pointer. The README links the list of all differences.

mod advice;
mod locks;
mod map;
mod options;
mod raw;
mod shared_file;

pub use advice::{Advice, UncheckedAdvice};
pub use map::{Mmap, MmapMut};
pub use options::{MapIfSafeError, MmapOptions, RemapOptions};
pub use raw::MmapRaw;
