//! What programs rarely do, on this store and on `LocalFileSystem` side by side: equal answers, and equal directories afterwards.

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path as FilePath;
use std::sync::Arc;
use stillmap_object_store::StillmapFileSystem;
use tempfile::TempDir;

/// A store in a directory of its own.
struct Side {
    directory: TempDir,
    store: Arc<dyn ObjectStore>,
}

/// This store, and `LocalFileSystem`.
fn sides() -> [Side; 2] {
    [true, false].map(|is_ours| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store: Arc<dyn ObjectStore> = if is_ours {
            let store = StillmapFileSystem::new_with_prefix(directory.path());
            Arc::new(store.expect("a store").with_automatic_cleanup(true))
        } else {
            let store = LocalFileSystem::new_with_prefix(directory.path());
            Arc::new(store.expect("a store").with_automatic_cleanup(true))
        };
        Side { directory, store }
    })
}

/// The variant of an error, without what differs between the stores.
fn answer<T: Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => {
            let text = format!("{error:?}");
            text.split([' ', '{'])
                .next()
                .unwrap_or_default()
                .to_string()
        }
    }
}

/// Every name below a directory, and what it is.
fn tree(directory: &FilePath) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let kind = fs::symlink_metadata(&path).expect("there").file_type();
        let what = if kind.is_symlink() {
            format!("link to {:?}", fs::read_link(&path).expect("a link"))
        } else if kind.is_fifo() {
            "FIFO".to_string()
        } else if kind.is_dir() {
            format!("{:?}", tree(&path))
        } else {
            format!("{:?}", fs::read(&path).expect("a file"))
        };
        let name = path.file_name().expect("a name").to_string_lossy();
        found.insert(name.into_owned(), what);
    }
    found
}

/// What is in the way of a put.
fn obstacles(directory: &FilePath) {
    let at = |name: &str| directory.join(name);
    fs::write(at("file"), "old").expect("written");
    fs::create_dir_all(at("directory/below")).expect("made");
    symlink("file", at("link")).expect("linked");
    symlink("nowhere", at("dangling")).expect("linked");
    symlink("directory", at("link-to-directory")).expect("linked");
    symlink("loop", at("loop")).expect("linked");
    let fifo = std::process::Command::new("mkfifo")
        .arg(at("fifo"))
        .status();
    assert!(fifo.expect("mkfifo").success());
}

#[tokio::test]
async fn a_put_over_anything_is_that_of_local_file_system() {
    let long = "n".repeat(250);
    let too_long = "n".repeat(256);
    let names = [
        "file",
        "directory",
        "link",
        "dangling",
        "link-to-directory",
        "loop",
        "fifo",
        "file/below",
        "link/below",
        "dangling/below",
        "link-to-directory/new",
        "loop/below",
        "fifo/below",
        "%41",
        "a%2Fb",
        "a%25b",
        "..%2Fup",
        ".hidden",
        "#",
        "a#",
        "a#b",
        "...",
        &long,
        &too_long,
    ];
    for way in ["put", "create", "multipart"] {
        for name in names {
            let name = Path::parse(name).expect("a path");
            let mut answers = Vec::new();
            for Side { directory, store } in sides() {
                obstacles(directory.path());
                let mut answer_of = Vec::new();
                for round in 0..2 {
                    let payload = PutPayload::from(format!("new {round}"));
                    let done = match way {
                        "put" => store.put(&name, payload).await.map(drop),
                        "create" => {
                            let put = store.put_opts(&name, payload, PutMode::Create.into());
                            put.await.map(drop)
                        }
                        _ => upload(&*store, &name, payload).await,
                    };
                    answer_of.push(answer(done));
                    // A FIFO without a writer blocks both.
                    let is_fifo = |path: &FilePath| {
                        fs::metadata(path).is_ok_and(|file| file.file_type().is_fifo())
                    };
                    if !is_fifo(&directory.path().join(name.as_ref())) {
                        let bytes = match store.get(&name).await {
                            Ok(object) => object.bytes().await,
                            Err(error) => Err(error),
                        };
                        answer_of.push(answer(bytes));
                    }
                }
                answers.push((answer_of, tree(directory.path())));
            }
            assert_eq!(answers[0], answers[1], "{way} {name}");
        }
    }
}

async fn upload(store: &dyn ObjectStore, name: &Path, payload: PutPayload) -> Result<(), Error> {
    let mut upload = store.put_multipart(name).await?;
    upload.put_part(payload).await?;
    upload.complete().await.map(drop)
}

#[tokio::test]
async fn ranges_at_the_end_and_behind_it() {
    let sides = sides();
    for len in [0, 1, 10, 5000] {
        let points = [0, 1, len.max(1) - 1, len, len + 1, len + 5000];
        let name = Path::from(format!("object-{len}"));
        let mut asked = vec![GetRange::Suffix(0), GetRange::Offset(u64::MAX)];
        asked.extend(points.map(GetRange::Suffix));
        asked.extend(points.map(GetRange::Offset));
        for start in points {
            asked.extend(points.map(|end| GetRange::Bounded(start..end)));
        }
        let mut answers = [Vec::new(), Vec::new()];
        for (Side { store, .. }, answers) in sides.iter().zip(&mut answers) {
            let payload = PutPayload::from(vec![7; len as usize]);
            store.put(&name, payload).await.expect("put");
            for range in &asked {
                let options = GetOptions {
                    range: Some(range.clone()),
                    ..GetOptions::default()
                };
                let found = store.get_opts(&name, options).await;
                let found = match found {
                    Ok(found) => Ok((found.range.clone(), found.bytes().await.map(|b| b.len()))),
                    Err(error) => Err(error),
                };
                answers.push(format!("{range:?}: {}", answer(found)));
                let GetRange::Bounded(range) = range else {
                    continue;
                };
                if range.start <= range.end {
                    let one = store.get_range(&name, range.clone()).await;
                    answers.push(format!(
                        "{range:?}: {}",
                        answer(one.map(|bytes| bytes.len()))
                    ));
                    let two = store.get_ranges(&name, &[range.clone(), 0..0]).await;
                    answers.push(format!("{range:?}: {}", answer(two)));
                }
            }
        }
        let [ours, theirs] = answers;
        assert_eq!(ours, theirs, "{len} bytes");
    }
}

#[tokio::test]
async fn an_upload_that_has_ended() {
    let sides = sides();
    let mut answers = [Vec::new(), Vec::new()];
    for (Side { directory, store }, answers) in sides.iter().zip(&mut answers) {
        let name = Path::from("object");
        let start = async || store.put_multipart(&name).await.expect("an upload");
        let mut completed = start().await;
        answers.push(answer(completed.put_part("whole".into()).await));
        answers.push(answer(completed.complete().await.map(drop)));
        answers.push(answer(completed.complete().await.map(drop)));
        answers.push(answer(completed.abort().await));
        answers.push(answer(completed.put_part("late".into()).await));
        let mut aborted = start().await;
        answers.push(answer(aborted.put_part("lost".into()).await));
        answers.push(answer(aborted.abort().await));
        answers.push(answer(aborted.abort().await));
        answers.push(answer(aborted.complete().await.map(drop)));
        let mut empty = start().await;
        answers.push(answer(empty.complete().await.map(drop)));
        answers.push(format!("{:?}", tree(directory.path())));
    }
    assert_eq!(answers[0], answers[1]);
}

/// Its file is in that directory under `LocalFileSystem`, so that the directory stays.
#[tokio::test]
async fn the_directory_of_an_upload_is_removed_because_it_is_empty() {
    for Side { directory, store } in sides() {
        let (other, name) = (Path::from("a/b/other"), Path::from("a/b/object"));
        store.put(&other, "other".into()).await.expect("put");
        let mut upload = store.put_multipart(&name).await.expect("an upload");
        upload.put_part("whole".into()).await.expect("a part");
        store.delete(&other).await.expect("deleted");
        let result = upload.complete().await.expect("complete");
        let meta = store.head(&name).await.expect("an object");
        assert_eq!((meta.e_tag, meta.size), (result.e_tag, 5));
        assert_eq!(
            fs::read(directory.path().join("a/b/object")).expect("a file"),
            b"whole"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_and_deletes_of_the_last_object_in_a_directory() {
    let [Side { store, .. }, _] = sides();
    let put = |name: &'static str| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..60 {
                let name = Path::from(name);
                store.put(&name, "whole".into()).await.expect("put");
                store.delete(&name).await.expect("deleted");
            }
        })
    };
    let tasks = ["d/e/a", "d/e/b", "d/c"].map(put);
    for task in tasks {
        task.await.expect("no put fails");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_creations_wins_and_puts_are_whole() {
    let [Side { store, directory }, _] = sides();
    for round in 0..20 {
        let name = Path::from(format!("object-{round}"));
        let create = |number: u8| {
            let (store, name) = (Arc::clone(&store), name.clone());
            tokio::spawn(async move {
                let payload = PutPayload::from(vec![number; 100_000]);
                let created = store.put_opts(&name, payload, PutMode::Create.into());
                match created.await {
                    Ok(_) => true,
                    Err(Error::AlreadyExists { .. }) => false,
                    Err(error) => panic!("{error}"),
                }
            })
        };
        let tasks: Vec<_> = (0..6).map(create).collect();
        let mut winners = Vec::new();
        for (number, task) in tasks.into_iter().enumerate() {
            if task.await.expect("no panic") {
                winners.push(number as u8);
            }
        }
        assert_eq!(winners.len(), 1);
        let bytes = fs::read(directory.path().join(name.as_ref())).expect("a file");
        assert_eq!(bytes, vec![winners[0]; 100_000]);
    }
}

/// A future that is dropped after its first poll: what has begun ends, whole or not at all, and leaves nothing behind.
#[test]
fn cancelled_calls_leave_whole_objects() {
    let [Side { store, directory }, _] = sides();
    let name = Path::from("object");
    for round in 0..30_u8 {
        // Dropping the runtime waits for its blocking tasks.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build();
        runtime.expect("a runtime").block_on(async {
            let payload = |byte| PutPayload::from(vec![byte; 200_000]);
            store.put(&name, payload(round)).await.expect("put");
            let _ = store.put(&name, payload(100)).now_or_never();
            let _ = store.get_range(&name, 5..70_000).now_or_never();
            let _ = store.list(None).next().now_or_never();
            let upload = store.put_multipart(&name);
            if let Some(Ok(mut upload)) = upload.now_or_never() {
                let _ = upload.put_part(payload(101)).now_or_never();
                let _ = upload.complete().now_or_never();
            }
        });
        let entries = tree(directory.path());
        assert_eq!(entries.len(), 1, "{:?}", entries.keys());
        let bytes = fs::read(directory.path().join("object")).expect("a file");
        let is_whole = |byte: u8| bytes == vec![byte; 200_000];
        assert!([round, 100, 101].into_iter().any(is_whole), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_while_objects_come_and_go() {
    let [Side { store, .. }, _] = sides();
    store
        .put(&Path::from("kept"), "kept".into())
        .await
        .expect("put");
    let changes = Arc::clone(&store);
    let task = tokio::spawn(async move {
        for round in 0..300 {
            let name = Path::from(format!("d{}/object", round % 7));
            changes.put(&name, "new".into()).await.expect("put");
            changes.put(&name, "newer".into()).await.expect("put");
            changes.delete(&name).await.expect("deleted");
        }
    });
    while !task.is_finished() {
        let objects: Vec<_> = store.list(None).try_collect().await.expect("a list");
        let is_object = |name: &str| name == "kept" || name.ends_with("/object");
        assert!(
            objects
                .iter()
                .all(|object| is_object(object.location.as_ref()))
        );
        assert!(
            objects
                .iter()
                .any(|object| object.location.as_ref() == "kept")
        );
        let level = store.list_with_delimiter(None).await.expect("a list");
        assert_eq!(level.objects.len(), 1);
    }
    task.await.expect("no panic");
}
