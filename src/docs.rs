//! Long documents, on pages of their own. Their links lead to other files, and here to other modules: of two definitions
//! Markdown takes the first.

/// Half a page for each type: can the bytes change, can it end the process, who waits, what a fork does.
///
/// [leases]: crate::docs::leases
/// [durability]: crate::docs::durability
/// [limits of leases]: crate::docs::leases#what-a-lease-does-not-block
#[doc = include_str!("../docs/safety.md")]
pub mod safety {}

/// The rules of file leases, and what a lease does not block.
#[doc = include_str!("../docs/leases.md")]
pub mod leases {}

/// What `flush`, `commit` and the like promise when the power fails, and what they do not.
#[doc = include_str!("../docs/durability.md")]
pub mod durability {}

/// What to write instead of memmap2, call by call, and what is different.
///
/// [durability]: crate::docs::durability
/// [platforms]: crate::docs::platforms
#[doc = include_str!("../docs/memmap2.md")]
pub mod memmap2 {}

/// Each platform: what keeps the promise there, and how it was tested.
#[doc = include_str!("../docs/platforms.md")]
pub mod platforms {}
