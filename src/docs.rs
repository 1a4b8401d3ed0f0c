//! Documents that are longer than a type's own page.

/// What can happen, and what a caller of each type sees; the rules of leases; what counts as a bug.
#[doc = include_str!("../docs/safety.md")]
pub mod safety {}

/// What `flush`, `commit` and the like promise when the power fails, in exact words, and what they do not.
#[doc = include_str!("../docs/durability.md")]
pub mod durability {}

/// What to write instead of memmap2, call by call, and what is different then.
#[doc = include_str!("../docs/memmap2.md")]
pub mod memmap2 {}
