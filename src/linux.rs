//! The modules of Linux. Their files are beside this one, as if they were declared in `lib.rs`.

pub(crate) mod anonymous;
pub(crate) mod atfork;
pub(crate) mod budget;
pub(crate) mod buffer;
pub(crate) mod draft;
pub(crate) mod edited_files;
pub(crate) mod exclusive;
pub(crate) mod file_system;
pub mod fork;
pub(crate) mod held;
pub(crate) mod input;
pub(crate) mod ladder;
pub(crate) mod lease;
pub(crate) mod live;
pub(crate) mod locked_pages;
pub(crate) mod mapped_file;
pub(crate) mod once;
pub(crate) mod open_all;
pub(crate) mod pages;
pub(crate) mod private;
pub(crate) mod process;
pub(crate) mod region;
pub(crate) mod resolve;
pub(crate) mod shared;
pub(crate) mod sigbus;
pub(crate) mod snapshot;
pub(crate) mod space;
pub(crate) mod table;
pub(crate) mod worker;

pub(crate) use buffer::release_unused;
pub(crate) use lease::copier::release_all;
