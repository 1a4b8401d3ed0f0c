//! Readers while another process replaces, truncates and deletes the files: every answer is one version, whole.
//!
//! `SOAK_SECONDS=60 cargo test --test soak` runs longer.

use object_store::path::Path;
use object_store::{Error, ObjectStoreExt};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use stillmap_object_store::{CacheLimits, StillmapFileSystem};

const FILES: u64 = 6;

/// The word at each place of a version. A version that is cut short is a version, too.
fn word(version: u64, place: usize) -> u64 {
    (version << 32) | place as u64
}

fn content(version: u64, words: usize) -> Vec<u8> {
    (0..words)
        .flat_map(|place| word(version, place).to_le_bytes())
        .collect()
}

/// Panics if the bytes, from word `first` on, are not of one version. The version, if there is a word.
fn check(bytes: &[u8], first: usize) -> Option<u64> {
    let words: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
        .collect();
    let version = words.first()? >> 32;
    for (place, found) in words.iter().enumerate() {
        assert_eq!(
            *found,
            word(version, first + place),
            "word {place} of version {version}"
        );
    }
    Some(version)
}

/// A small generator: the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % end
    }
}

/// Replaces, truncates and deletes until it is killed. Does nothing in other runs.
#[test]
fn child_that_writes() {
    let Ok(root) = std::env::var("STILLMAP_SOAK") else {
        return;
    };
    let root = std::path::PathBuf::from(root);
    let mut random = Random(1);
    for version in 1.. {
        let path = root.join(format!("object-{}", random.below(FILES)));
        match random.below(10) {
            0 => {
                let _ = fs::remove_file(&path);
            }
            1 | 2 => {
                let words = random.below(20_000);
                let file = fs::OpenOptions::new().write(true).open(&path);
                if let Ok(file) = file
                    && file
                        .metadata()
                        .is_ok_and(|metadata| metadata.len() > words * 8)
                {
                    file.set_len(words * 8).expect("truncated");
                }
            }
            _ => {
                let words = [100, 20_000, 400_000][random.below(3) as usize];
                let new = root.join("new");
                fs::write(&new, content(version, words)).expect("written");
                fs::rename(&new, &path).expect("renamed");
            }
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whole objects and ranges; the answers of the last rounds are looked at again.
async fn read(store: StillmapFileSystem, seed: u64, end: Instant) -> [u64; 3] {
    let mut random = Random(seed);
    let mut held = Vec::new();
    let mut counts = [0; 3];
    while Instant::now() < end {
        let name = Path::from(format!("object-{}", random.below(FILES)));
        let (first, answer) = if random.below(2) == 0 {
            let result = store.get(&name).await;
            let answer = match result {
                Ok(result) => result.bytes().await,
                Err(error) => Err(error),
            };
            (0, answer)
        } else {
            let first = random.below(3000);
            let range = first * 8..(first + random.below(3000) + 1) * 8;
            (first as usize, store.get_range(&name, range).await)
        };
        match answer {
            Ok(bytes) => {
                let version = check(&bytes, first);
                counts[usize::from(first > 0)] += 1;
                held.push((first, bytes, version));
            }
            Err(Error::NotFound { .. } | Error::Generic { .. }) => counts[2] += 1,
            Err(error) => panic!("{error}"),
        }
        if held.len() > 50 {
            let (first, bytes, version) = held.swap_remove(random.below(50) as usize);
            assert_eq!(check(&bytes, first), version, "an answer changed");
        }
    }
    counts
}

#[test]
fn every_answer_is_one_version() {
    let seconds = std::env::var("SOAK_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(5));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child
        .args(["--exact", "child_that_writes"])
        .env("STILLMAP_SOAK", directory.path());
    let _child = Killed(child.stdout(Stdio::null()).spawn().expect("a child"));
    let limits = CacheLimits {
        files: 4,
        ..CacheLimits::default()
    };
    let store = StillmapFileSystem::new_with_prefix(directory.path()).expect("a store");
    let store = store.with_cache_limits(limits);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build();
    let counts = runtime.expect("a runtime").block_on(async {
        let readers: Vec<_> = (0..4)
            .map(|seed| tokio::spawn(read(store.clone(), seed, end)))
            .collect();
        let mut sums = [0; 3];
        for reader in readers {
            let counts = reader.await.expect("no reader fails");
            sums = std::array::from_fn(|i| sums[i] + counts[i]);
        }
        sums
    });
    println!(
        "{} whole objects, {} ranges, {} errors",
        counts[0], counts[1], counts[2]
    );
    assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
}
