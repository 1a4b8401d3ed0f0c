//! Documents that are longer than a type's own page.

/// What happens when: threats and failures, type by type; the rules of leases; what counts as a bug.
#[doc = include_str!("../docs/safety.md")]
pub mod safety {}

/// What a user sees of each version.
#[doc = include_str!("../CHANGELOG.md")]
pub mod changelog {}
