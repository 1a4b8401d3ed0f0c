//! What each type gives for one file.

use super::places::Place;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use stillmap::{Anonymous, Draft, Error, Exclusive, Live, Private, Result, Shared, Snapshot, fork};

pub const NAMES: [&str; 8] = [
    "Snapshot",
    "Anonymous",
    "Private",
    "Draft",
    "Exclusive",
    "Shared",
    "Live",
    "fork",
];

/// In the order of [`NAMES`]; what changes the file comes after what only reads it.
pub fn all(place: &Place) -> [String; 8] {
    let file = &place.file;
    let snapshot = cell(snapshot(file));
    let private = cell(private(file));
    let live = cell(live(file));
    let fork = cell(forked(file));
    let exclusive = cell(exclusive(file));
    let shared = cell(shared(&file.with_file_name("shared")));
    let draft = cell(draft(file));
    let anonymous = cell(anonymous());
    [
        snapshot, anonymous, private, draft, exclusive, shared, live, fork,
    ]
}

fn cell(result: Result<String>) -> String {
    result.unwrap_or_else(|error| {
        println!("{error:?}");
        name_of(&error)
    })
}

/// The errno, or the variant.
fn name_of(error: &Error) -> String {
    let Error::Os { source, .. } = error else {
        let text = format!("{error:?}");
        let end = text.find(|c: char| !c.is_alphanumeric());
        return text[..end.unwrap_or(text.len())].to_string();
    };
    let number = source.raw_os_error().unwrap_or(0);
    let known = [
        (libc::EACCES, "EACCES"),
        (libc::EPERM, "EPERM"),
        (libc::EROFS, "EROFS"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::ENOMEM, "ENOMEM"),
        (libc::ENOSPC, "ENOSPC"),
        (libc::EMFILE, "EMFILE"),
        (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    ];
    let found = known.iter().find(|(errno, _)| *errno == number);
    found.map_or(format!("errno {number}"), |(_, name)| name.to_string())
}

fn works() -> Result<String> {
    Ok("works".to_string())
}

/// The same bytes as read(2) returns.
fn assert_is(bytes: &[u8], file: &Path) {
    let mut file = File::open(file).unwrap();
    let mut piece = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let n = file.read(&mut piece).unwrap();
        if n == 0 {
            break;
        }
        assert!(bytes[done..][..n] == piece[..n], "from {done} on");
        done += n;
    }
    assert_eq!(bytes.len(), done);
}

fn snapshot(file: &Path) -> Result<String> {
    let snapshot = Snapshot::open(file)?;
    assert_is(&snapshot, file);
    assert!(snapshot.is_consistent());
    Ok(match snapshot.reason() {
        Some(reason) => format!("{:?}: {reason:?}", snapshot.backing()),
        None => format!("{:?}", snapshot.backing()),
    })
}

fn private(file: &Path) -> Result<String> {
    let mut private = Private::open(file)?;
    assert_is(&private, file);
    private[0] ^= 1;
    assert_ne!(private[0], Snapshot::open(file)?[0]);
    Ok(format!("{:?}", private.backing()))
}

fn live(file: &Path) -> Result<String> {
    let live = Live::open(file)?;
    let mut bytes = vec![0; live.len().min(2 << 20)];
    assert_eq!(live.read_at(0, &mut bytes)?, bytes.len());
    assert!(Snapshot::open(file)?[..bytes.len()] == bytes);
    works()
}

fn exclusive(file: &Path) -> Result<String> {
    let mut exclusive = Exclusive::open(file)?;
    exclusive[0] = 200;
    exclusive.close()?;
    assert_eq!(Snapshot::open(file)?[0], 200);
    works()
}

fn shared(file: &Path) -> Result<String> {
    let shared = Shared::<[AtomicU8]>::create_slice(file, 5000)?;
    shared[4999].store(7, Ordering::Relaxed);
    assert_eq!(std::fs::read(file).unwrap()[4999], 7);
    works()
}

fn draft(file: &Path) -> Result<String> {
    let mut draft = Draft::create(file, 1 << 20)?;
    draft.fill(9);
    draft.commit()?;
    assert!(std::fs::read(file).unwrap() == vec![9; 1 << 20]);
    works()
}

fn anonymous() -> Result<String> {
    let mut anonymous = Anonymous::new(1 << 20)?;
    anonymous.fill(1);
    works()
}

/// A child sees the bytes of a snapshot, and its parent what the child stored.
fn forked(file: &Path) -> Result<String> {
    let snapshot = Snapshot::open(file)?;
    let mut memory = Anonymous::shared(1)?;
    fork::scope(|scope| {
        let last = || snapshot[snapshot.len() - 1] ^ 1;
        scope.spawn_with(&mut memory[..], move |memory| memory[0] = last())?;
        Ok::<(), Error>(())
    })??;
    assert_eq!(memory[0] ^ 1, snapshot[snapshot.len() - 1]);
    works()
}
