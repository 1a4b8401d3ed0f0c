//! What reads give beyond `LocalFileSystem`: bytes of the mapping, that stay; a cache that is bounded and notices changes.

use bytes::Bytes;
use futures_util::{FutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload, UpdateVersion};
use rustix::fs::{Advice, fadvise};
use std::fs::{self, File};
use std::process::Command;
use stillmap::{Backing, Snapshot};
use stillmap_object_store::{CacheLimits, StillmapFileSystem};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

struct Fixture {
    directory: TempDir,
    store: StillmapFileSystem,
}

impl Fixture {
    fn new() -> Self {
        Fixture::with_limits(CacheLimits::default())
    }

    fn with_limits(limits: CacheLimits) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = StillmapFileSystem::new_with_prefix(directory.path()).expect("a store");
        let store = store.with_cache_limits(limits);
        Fixture { directory, store }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.directory.path().join(name), bytes).expect("written");
    }

    async fn get(&self, name: &str) -> Bytes {
        let result = self.store.get(&Path::from(name)).await.expect("an object");
        result.bytes().await.expect("bytes")
    }

    /// Runs a shell command in the directory, as another process.
    fn shell(&self, command: &str) {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", command])
            .current_dir(self.directory.path());
        assert!(shell.status().expect("a shell").success(), "{command}");
    }

    /// False, after printing `skipped:`, where files cannot be leased.
    fn has_leases(&self) -> bool {
        self.write("probe", &[1; 100]);
        let probe = self.directory.path().join("probe");
        let probe = Snapshot::options().copy_limit(0).open(probe);
        let leased = probe
            .as_ref()
            .is_ok_and(|snapshot| snapshot.backing() == Backing::Leased);
        if !leased {
            println!("skipped: files in the temporary directory cannot be leased");
        }
        leased
    }
}

/// The line of /proc/self/maps that an address lies in.
fn mapping_of(bytes: &Bytes) -> String {
    let address = bytes.as_ptr().addr();
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let contains = |line: &&str| {
        let (start, rest) = line.split_once('-').expect("a range");
        let (end, _) = rest.split_once(' ').expect("a range");
        let parse = |text| usize::from_str_radix(text, 16).expect("an address");
        (parse(start)..parse(end)).contains(&address)
    };
    maps.lines().find(contains).unwrap_or_default().to_string()
}

fn descriptors_of(directory: &std::path::Path) -> usize {
    let links = fs::read_dir("/proc/self/fd").expect("descriptors");
    let targets = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    targets
        .filter(|target| target.starts_with(directory))
        .count()
}

#[tokio::test]
async fn bytes_are_the_mapping_and_not_a_copy() {
    let fixture = Fixture::new();
    if !fixture.has_leases() {
        return;
    }
    let content: Vec<u8> = (0..3 * MIB).map(|i| (i / 4096) as u8).collect();
    fixture.write("object", &content);
    let name = Path::from("object");
    let whole = fixture.get("object").await;
    let part = fixture
        .store
        .get_range(&name, 5000..70_000)
        .await
        .expect("a range");
    let parts = fixture
        .store
        .get_ranges(&name, &[1..2, 9000..9100])
        .await
        .expect("ranges");
    assert_eq!(whole, content);
    assert_eq!(part, content[5000..70_000]);
    assert!(
        mapping_of(&whole).ends_with("/object"),
        "{}",
        mapping_of(&whole)
    );
    // One mapping for all answers.
    assert_eq!(part.as_ptr(), whole[5000..].as_ptr());
    assert_eq!(parts[1].as_ptr(), whole[9000..].as_ptr());
}

#[tokio::test]
async fn bytes_stay_while_another_process_rewrites_truncates_and_deletes() {
    let fixture = Fixture::new();
    let content = vec![7; 2 * MIB];
    let change = [
        "printf new > object",
        "dd if=/dev/null of=object bs=100 seek=1 count=0 status=none",
        "dd if=/dev/zero of=object bs=1M count=2 conv=notrunc status=none",
        "rm object",
    ];
    for command in change {
        fixture.write("object", &content);
        let before = fixture.get("object").await;
        fixture.shell(command);
        assert_eq!(before, content, "{command}");
    }
}

#[tokio::test]
async fn the_next_read_sees_every_change() {
    let fixture = Fixture::new();
    fixture.write("object", &[1; 100]);
    fixture.write("other", &[2; 100]);
    assert_eq!(fixture.get("object").await, vec![1; 100]);
    // Same size, and the mtime is set back.
    fixture.shell("touch -r object t && head -c 100 /dev/zero > object && touch -r t object");
    assert_eq!(fixture.get("object").await, vec![0; 100]);
    fixture.shell("mv other object");
    assert_eq!(fixture.get("object").await, vec![2; 100]);
    fixture.shell("dd if=/dev/null of=object bs=10 seek=1 count=0 status=none");
    assert_eq!(fixture.get("object").await, vec![2; 10]);
    fixture.shell("ln object link && mv link renamed");
    assert_eq!(fixture.get("renamed").await, vec![2; 10]);
    fixture.shell("rm object");
    let gone = fixture.store.get(&Path::from("object")).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
}

#[tokio::test]
async fn warm_ranges_are_returned_at_once_and_cold_ones_do_not_block_the_runtime() {
    let fixture = Fixture::new();
    if !fixture.has_leases() {
        return;
    }
    let content: Vec<u8> = (0..32 * MIB).map(|i| (i / 4096) as u8).collect();
    fixture.write("object", &content);
    let file = File::open(fixture.directory.path().join("object")).expect("a file");
    file.sync_all().expect("synced");
    fadvise(&file, 0, None, Advice::DontNeed).expect("advised");
    let name = Path::from("object");
    fixture
        .store
        .get_range(&name, 0..10)
        .await
        .expect("a range");

    let cold = 16 * MIB as u64..20 * MIB as u64;
    let first_poll = fixture.store.get_range(&name, cold.clone()).now_or_never();
    assert!(
        first_poll.is_none(),
        "a cold range is read on the blocking pool"
    );
    let before = stillmap::faults::of_thread().major;
    let bytes = fixture
        .store
        .get_range(&name, cold.clone())
        .await
        .expect("a range");
    assert_eq!(bytes, content[16 * MIB..20 * MIB]);
    let after = stillmap::faults::of_thread().major;
    assert_eq!(
        after, before,
        "no page fault of this thread reads from the disk"
    );

    let warm = fixture.store.get_range(&name, cold).now_or_never();
    let warm = warm
        .expect("a warm range needs no other thread")
        .expect("a range");
    assert_eq!(warm, bytes);
}

#[tokio::test]
async fn the_cache_is_bounded_by_files_descriptors_and_bytes() {
    let limits = [
        (
            CacheLimits {
                files: 3,
                ..CacheLimits::default()
            },
            3,
        ),
        (
            CacheLimits {
                descriptors: 5,
                ..CacheLimits::default()
            },
            5,
        ),
        (
            CacheLimits {
                bytes: 4500,
                ..CacheLimits::default()
            },
            4,
        ),
        (
            CacheLimits {
                files: 0,
                ..CacheLimits::default()
            },
            0,
        ),
    ];
    for (limits, most) in limits {
        let fixture = Fixture::with_limits(limits);
        if !fixture.has_leases() {
            return;
        }
        for round in 0..2 {
            for number in 0..20_u8 {
                let name = format!("object-{number}");
                if round == 0 {
                    fixture.write(&name, &[number; 1000]);
                }
                assert_eq!(fixture.get(&name).await, vec![number; 1000]);
            }
        }
        let (files, bytes) = fixture.store.cache_size();
        assert_eq!((files, bytes), (most, 1000 * most as u64), "{limits:?}");
        assert_eq!(descriptors_of(fixture.directory.path()), most, "{limits:?}");
        fixture.store.clear_cache();
        assert_eq!(descriptors_of(fixture.directory.path()), 0);
    }
}

#[tokio::test]
async fn an_object_replaced_or_deleted_through_the_store_takes_no_disk_space() {
    let fixture = Fixture::new();
    let store = &fixture.store;
    let names = ["put", "delete", "rename", "copy"].map(Path::from);
    for name in &names {
        store.put(name, vec![1; MIB].into()).await.expect("put");
        fixture.get(name.as_ref()).await;
    }
    store.put(&names[0], "new".into()).await.expect("put");
    store.delete(&names[1]).await.expect("deleted");
    store.rename(&names[0], &names[2]).await.expect("renamed");
    store.copy(&names[2], &names[3]).await.expect("copied");
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let root = fixture.directory.path().to_string_lossy();
    let held = maps
        .lines()
        .filter(|line| line.contains(&*root) && line.ends_with("(deleted)"));
    assert_eq!(held.count(), 0, "{maps}");
}

#[tokio::test]
async fn a_draft_in_passing_is_not_listed() {
    let fixture = Fixture::new();
    fixture.write("object", b"1");
    fixture.write(".object.stillmap-draft", b"2");
    let all: Vec<_> = fixture
        .store
        .list(None)
        .try_collect()
        .await
        .expect("a list");
    let names: Vec<_> = all.iter().map(|object| object.location.as_ref()).collect();
    assert_eq!(names, ["object"]);
    let level = fixture
        .store
        .list_with_delimiter(None)
        .await
        .expect("a list");
    assert_eq!(level.objects, all);
}

/// Adds 1 to the number in an object, as often as `INCREMENTS` says, by conditional puts. Does nothing in other runs.
#[test]
fn child_that_increments() {
    let Ok(root) = std::env::var("STILLMAP_COUNTER") else {
        return;
    };
    let store = StillmapFileSystem::new_with_prefix(root).expect("a store");
    let name = Path::from("counter");
    run(async {
        let mut done = 0;
        while done < INCREMENTS {
            let result = store.get(&name).await.expect("an object");
            let version = UpdateVersion {
                e_tag: result.meta.e_tag.clone(),
                version: None,
            };
            let text = result.bytes().await.expect("bytes");
            let text = std::str::from_utf8(&text).expect("a number");
            let next = text.parse::<u64>().expect("a number") + 1;
            let payload = PutPayload::from(next.to_string());
            match store
                .put_opts(&name, payload, PutMode::Update(version).into())
                .await
            {
                Ok(_) => done += 1,
                Err(Error::Precondition { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
}

const INCREMENTS: u64 = 40;

fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future);
}

#[tokio::test]
async fn conditional_puts_of_several_processes_lose_nothing() {
    let fixture = Fixture::new();
    fixture.write("counter", b"0");
    let child = || {
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", "child_that_increments"]);
        child.env("STILLMAP_COUNTER", fixture.directory.path());
        child
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("a child")
    };
    let children: Vec<_> = (0..3).map(|_| child()).collect();
    for mut child in children {
        assert!(child.wait().expect("a status").success());
    }
    let count = fixture.get("counter").await;
    assert_eq!(count, (3 * INCREMENTS).to_string());
}

#[tokio::test]
async fn a_put_that_fails_leaves_no_trace() {
    let fixture = Fixture::new();
    let name = Path::from("object");
    let old = fixture.store.put(&name, "old".into()).await.expect("put");
    fixture.store.put(&name, "new".into()).await.expect("put");
    let stale = PutMode::Update(old.into()).into();
    let refused = fixture.store.put_opts(&name, "late".into(), stale).await;
    assert!(
        matches!(refused, Err(Error::Precondition { .. })),
        "{refused:?}"
    );
    let mut upload = fixture.store.put_multipart(&name).await.expect("an upload");
    upload.put_part("part".into()).await.expect("a part");
    drop(upload);
    // A part that is dropped before it was written leaves no hole.
    let mut upload = fixture.store.put_multipart(&name).await.expect("an upload");
    drop(upload.put_part("lost".into()));
    upload.put_part("part".into()).await.expect("a part");
    upload.complete().await.expect_err("a part is missing");
    assert_eq!(fixture.get("object").await, "new");
    let entries = fs::read_dir(fixture.directory.path()).expect("entries");
    assert_eq!(entries.count(), 1);
}
