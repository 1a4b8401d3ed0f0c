//! What a user does with each type, for the tests that do it where something is missing.

use super::support::bytes::pattern;
use super::support::{child, temp_dir_in};
use crate::skip;
use std::fs::{self, File};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use stillmap::{Anonymous, Draft, Exclusive, Live, Private, Shared, Snapshot, fork, open_all};

/// Of this crate, or of `std`.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Above the size up to which files are read rather than mapped.
const LARGE: usize = (3 << 20) + 99;
const SMALL: usize = 5000;

/// What a user does with one type, in a directory with the files `small` and `large`.
pub struct Row {
    pub name: &'static str,
    pub run: fn(&Path) -> Result<()>,
}

pub const TABLE: &[Row] = &[
    Row {
        name: "Snapshot, small",
        run: |dir| is_pattern(&Snapshot::open(dir.join("small"))?),
    },
    Row {
        name: "Snapshot, leased",
        run: leased,
    },
    Row {
        name: "Snapshot, without a lease",
        run: |dir| is_pattern(&Snapshot::options().lease(false).open(dir.join("large"))?),
    },
    Row {
        name: "Snapshot, to disk",
        run: |dir| {
            let options = Snapshot::options().lease(false).memory_limit(0);
            is_pattern(&options.open(dir.join("large"))?)
        },
    },
    Row {
        name: "Snapshot::from_file",
        run: |dir| is_pattern(&Snapshot::from_file(&File::open(dir.join("large"))?)?),
    },
    Row {
        name: "open_all",
        run: |dir| {
            let paths = ["small", "large", "small"].map(|name| dir.join(name));
            for snapshot in open_all(paths) {
                is_pattern(&snapshot?)?;
            }
            Ok(())
        },
    },
    Row {
        name: "Private",
        run: |dir| {
            let mut private = Private::open(dir.join("large"))?;
            is_pattern(&private)?;
            private.fill(0);
            Ok(())
        },
    },
    Row {
        name: "Anonymous",
        run: |_| {
            let mut anonymous = Anonymous::new(LARGE)?;
            anonymous.fill(1);
            anonymous.resize(2 * LARGE)?;
            assert_eq!((anonymous[0], anonymous[2 * LARGE - 1]), (1, 0));
            let frozen = anonymous.freeze()?;
            assert_eq!(frozen[0], 1);
            Ok(())
        },
    },
    Row {
        name: "Draft",
        run: |dir| {
            let mut draft = Draft::create(dir.join("draft"), LARGE)?;
            draft.copy_from_slice(expected());
            draft.resize(SMALL)?;
            Ok(draft.commit()?)
        },
    },
    Row {
        name: "Exclusive",
        run: |dir| {
            let mut exclusive = Exclusive::open(dir.join("large"))?;
            is_pattern(&exclusive)?;
            exclusive[0] = expected()[0];
            Ok(exclusive.close()?)
        },
    },
    Row {
        name: "Shared, a file",
        run: |dir| {
            let path = dir.join("shared");
            let shared = Shared::<[AtomicU8]>::create_slice(&path, SMALL)?;
            shared[4999].store(7, Ordering::Relaxed);
            match Shared::<[AtomicU8]>::open_slice(&path) {
                // The umask left no right to open it again.
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => {}
                again => assert_eq!(again?[4999].load(Ordering::Relaxed), 7),
            }
            Ok(shared.flush()?)
        },
    },
    Row {
        name: "Shared, a memfd",
        run: |_| {
            let shared = Shared::<[AtomicU8]>::memfd_slice("memory", SMALL)?;
            shared[4999].store(7, Ordering::Relaxed);
            Ok(())
        },
    },
    Row {
        name: "Live",
        run: |dir| {
            let mut live = Live::open(dir.join("large"))?;
            let mut bytes = [0; SMALL];
            assert_eq!(live.read_at(0, &mut bytes)?, SMALL);
            is_pattern(&bytes)?;
            live.refresh()?;
            is_pattern(&live.snapshot(..)?)
        },
    },
    Row {
        name: "fork",
        run: |_| {
            let mut memory = Anonymous::shared(1)?;
            fork::scope(|scope| {
                scope.spawn_with(&mut memory[..], |memory| memory[0] = 1)?;
                Ok::<(), stillmap::Error>(())
            })??;
            assert_eq!(memory[0], 1);
            Ok(())
        },
    },
    Row {
        name: "pages",
        run: |dir| {
            let snapshot = Snapshot::open(dir.join("large"))?;
            let pages = snapshot.pages();
            let _ = pages.prefetch(..);
            let _ = pages.populate(..);
            let _ = pages.residency(..);
            let _ = pages.lock(..4096);
            let _ = pages.huge_bytes();
            is_pattern(&snapshot)
        },
    },
];

/// Made before anything is missing.
static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();

fn expected() -> &'static [u8] {
    PATTERN.get_or_init(|| pattern(1, LARGE))
}

fn is_pattern(bytes: &[u8]) -> Result<()> {
    assert!(bytes == &expected()[..bytes.len()] && bytes.len() >= SMALL);
    Ok(())
}

impl Row {
    /// False, after saying why, where it does not work although nothing is missing: there are no leases, for example.
    pub fn works(&self, parent: &Path) -> bool {
        let dir = files(parent);
        let child = child::fork(|| {
            if let Err(error) = (self.run)(dir.path()) {
                skip(format_args!("{} does not work here: {error}", self.name));
                std::process::exit(1);
            }
        });
        child.wait().success()
    }
}

/// A directory with the files that the rows open.
pub fn files(parent: &Path) -> tempfile::TempDir {
    let dir = temp_dir_in(parent);
    for (name, len) in [("small", SMALL), ("large", LARGE), ("draft", SMALL)] {
        fs::write(dir.path().join(name), &expected()[..len]).expect("write");
    }
    dir
}

/// With a writer, whose open is refused at most.
fn leased(dir: &Path) -> Result<()> {
    let path = dir.join("large");
    let snapshot = Snapshot::open(&path)?;
    is_pattern(&snapshot)?;
    if let Ok(writer) = File::options().write(true).open(&path) {
        let _ = writer.set_len(0);
    }
    is_pattern(&snapshot)
}
