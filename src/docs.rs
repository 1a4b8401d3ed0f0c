//! Documents that are longer than a type's own page.

/// What can happen, and what a caller of each type sees; the rules of leases; what counts as a bug.
#[doc = include_str!("../docs/safety.md")]
pub mod safety {}
