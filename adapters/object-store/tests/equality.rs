//! The same 10,000 random operations on this store and on `LocalFileSystem`, in two directories: equal answers.

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange as Ask, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutPayload,
};
use proptest::collection::vec;
use proptest::prelude::*;
use stillmap_object_store::{CacheLimits, StillmapFileSystem};

/// Valid names, names that are a file for one operation and a directory for another, and names that are refused.
const NAMES: [&str; 12] = [
    "a",
    "b",
    "a/b",
    "a/b/c",
    "d/a",
    "d/b",
    "d/e/f",
    "d",
    "x#1",
    "x#y",
    "with space",
    "ünï",
];

#[derive(Clone, Debug)]
enum Operation {
    Put(usize, usize, u8),
    Create(usize, usize, u8),
    Multipart(usize, Vec<usize>, u8, bool),
    Get(usize),
    GetRange(usize, u64, u64),
    GetPart(usize, Part),
    GetRanges(usize, Vec<(u64, u64)>),
    GetIf(usize, usize, bool),
    Head(usize),
    List(usize, bool),
    ListAfter(usize, usize),
    ListDelimited(usize, bool),
    Copy(usize, usize, bool),
    Rename(usize, usize, bool),
    Delete(usize),
}

#[derive(Clone, Debug)]
enum Part {
    Suffix(u64),
    Offset(u64),
    Bounded(u64, u64),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let name = || 0..NAMES.len();
    let len =
        || prop_oneof![4 => 0..40_usize, 4 => 0..20_000_usize, 1 => 1_000_000..2_000_000_usize];
    let range = || (0..30_000_u64, 0..30_000_u64);
    let part = prop_oneof![
        (0..30_000_u64).prop_map(Part::Suffix),
        (0..30_000_u64).prop_map(Part::Offset),
        range().prop_map(|(start, len)| Part::Bounded(start, start + len)),
    ];
    prop_oneof![
        4 => (name(), len(), any::<u8>()).prop_map(|(n, l, s)| Put(n, l, s)),
        2 => (name(), len(), any::<u8>()).prop_map(|(n, l, s)| Create(n, l, s)),
        2 => (name(), vec(len(), 0..4), any::<u8>(), any::<bool>())
            .prop_map(|(n, l, s, c)| Multipart(n, l, s, c)),
        4 => name().prop_map(Get),
        3 => (name(), range()).prop_map(|(n, (start, len))| GetRange(n, start, len)),
        2 => (name(), part).prop_map(|(n, p)| GetPart(n, p)),
        3 => (name(), vec(range(), 0..5)).prop_map(|(n, r)| GetRanges(n, r)),
        2 => (name(), name(), any::<bool>()).prop_map(|(n, o, not)| GetIf(n, o, not)),
        2 => name().prop_map(Head),
        1 => (name(), any::<bool>()).prop_map(|(n, p)| List(n, p)),
        1 => (name(), name()).prop_map(|(n, o)| ListAfter(n, o)),
        1 => (name(), any::<bool>()).prop_map(|(n, p)| ListDelimited(n, p)),
        2 => (name(), name(), any::<bool>()).prop_map(|(f, t, c)| Copy(f, t, c)),
        2 => (name(), name(), any::<bool>()).prop_map(|(f, t, c)| Rename(f, t, c)),
        2 => name().prop_map(Delete),
    ]
}

fn content(len: usize, seed: u8) -> Bytes {
    let byte = |i: usize| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed;
    (0..len).map(byte).collect()
}

/// What both stores have to agree on. Etags and times are of two different files, and are compared elsewhere.
type Answer = Result<Value, (String, String)>;

#[derive(Debug, PartialEq)]
enum Value {
    Done,
    Object(String, u64, std::ops::Range<u64>, Bytes),
    Bytes(Vec<Bytes>),
    Names(Vec<(String, u64)>, Vec<String>),
}

/// The variant of an error, and the path that it names.
fn kind(error: Error, root: &std::path::Path) -> (String, String) {
    let (variant, path) = match &error {
        Error::NotFound { path, .. } => ("NotFound", path.as_str()),
        Error::AlreadyExists { path, .. } => ("AlreadyExists", path.as_str()),
        Error::Precondition { path, .. } => ("Precondition", path.as_str()),
        Error::NotModified { path, .. } => ("NotModified", path.as_str()),
        Error::NotImplemented { .. } => ("NotImplemented", ""),
        Error::InvalidPath { .. } => ("InvalidPath", ""),
        Error::Generic { .. } => ("Generic", ""),
        _ => ("other", ""),
    };
    let root = root.to_string_lossy();
    (variant.to_string(), path.replace(&*root, ""))
}

async fn collect(meta: &[ObjectMeta]) -> Vec<(String, u64)> {
    let mut names: Vec<_> = meta
        .iter()
        .map(|object| (object.location.to_string(), object.size))
        .collect();
    names.sort();
    names
}

async fn get(store: &dyn ObjectStore, path: &Path, options: GetOptions) -> Result<Value, Error> {
    let result = store.get_opts(path, options).await?;
    let (location, size) = (result.meta.location.to_string(), result.meta.size);
    let range = result.range.clone();
    Ok(Value::Object(location, size, range, result.bytes().await?))
}

async fn upload(store: &dyn ObjectStore, op: (usize, &[usize], u8, bool)) -> Result<Value, Error> {
    let (name, lens, seed, complete) = op;
    let options = PutMultipartOptions::default();
    let mut upload: Box<dyn MultipartUpload> =
        store.put_multipart_opts(&path(name), options).await?;
    let part = |len: &usize| PutPayload::from(content(*len, seed));
    let parts: Vec<_> = lens.iter().map(|len| upload.put_part(part(len))).collect();
    // The last part first.
    for part in parts.into_iter().rev() {
        part.await?;
    }
    if complete {
        upload.complete().await?;
    } else {
        upload.abort().await?;
    }
    Ok(Value::Done)
}

fn path(name: usize) -> Path {
    Path::parse(NAMES[name]).expect("a valid path")
}

async fn run(store: &dyn ObjectStore, operation: &Operation) -> Result<Value, Error> {
    use Operation::*;
    match operation {
        Put(name, len, seed) => {
            let payload = PutPayload::from(content(*len, *seed));
            store.put(&path(*name), payload).await.map(|_| Value::Done)
        }
        Create(name, len, seed) => {
            let payload = PutPayload::from(content(*len, *seed));
            let path = path(*name);
            let put = store.put_opts(&path, payload, PutMode::Create.into());
            put.await.map(|_| Value::Done)
        }
        Multipart(name, lens, seed, complete) => {
            upload(store, (*name, lens, *seed, *complete)).await
        }
        Get(name) => get(store, &path(*name), GetOptions::default()).await,
        GetRange(name, start, len) => {
            let bytes = store.get_range(&path(*name), *start..start + len).await?;
            Ok(Value::Bytes(vec![bytes]))
        }
        GetPart(name, part) => {
            let range = match part {
                Part::Suffix(len) => Ask::Suffix(*len),
                Part::Offset(start) => Ask::Offset(*start),
                Part::Bounded(start, end) => Ask::Bounded(*start..*end),
            };
            let options = GetOptions {
                range: Some(range),
                ..GetOptions::default()
            };
            get(store, &path(*name), options).await
        }
        GetRanges(name, ranges) => {
            let ranges = ranges.iter().map(|(start, len)| *start..start + len);
            let ranges: Vec<_> = ranges.collect();
            Ok(Value::Bytes(store.get_ranges(&path(*name), &ranges).await?))
        }
        GetIf(name, other, not) => {
            let etag = store
                .head(&path(*other))
                .await
                .ok()
                .and_then(|meta| meta.e_tag);
            let (matches, differs) = if *not { (None, etag) } else { (etag, None) };
            let options = GetOptions {
                if_match: matches,
                if_none_match: differs,
                ..GetOptions::default()
            };
            get(store, &path(*name), options).await
        }
        Head(name) => {
            let meta = store.head(&path(*name)).await?;
            Ok(Value::Names(collect(&[meta]).await, Vec::new()))
        }
        _ => run_on_names(store, operation).await,
    }
}

/// The operations on names, which read no bytes.
async fn run_on_names(store: &dyn ObjectStore, operation: &Operation) -> Result<Value, Error> {
    use Operation::*;
    match operation {
        List(name, below) => {
            let prefix = path(*name);
            let list = store.list(below.then_some(&prefix));
            let objects: Vec<_> = list.try_collect().await?;
            Ok(Value::Names(collect(&objects).await, Vec::new()))
        }
        ListAfter(name, offset) => {
            let (prefix, offset) = (path(*name), path(*offset));
            let list = store.list_with_offset(Some(&prefix), &offset);
            let objects: Vec<_> = list.try_collect().await?;
            Ok(Value::Names(collect(&objects).await, Vec::new()))
        }
        ListDelimited(name, below) => {
            let prefix = path(*name);
            let list = store.list_with_delimiter(below.then_some(&prefix)).await?;
            let mut prefixes: Vec<_> = list.common_prefixes.iter().map(Path::to_string).collect();
            prefixes.sort();
            Ok(Value::Names(collect(&list.objects).await, prefixes))
        }
        Copy(from, to, true) => store
            .copy_if_not_exists(&path(*from), &path(*to))
            .await
            .map(|()| Value::Done),
        Copy(from, to, false) => store
            .copy(&path(*from), &path(*to))
            .await
            .map(|()| Value::Done),
        Rename(from, to, true) => store
            .rename_if_not_exists(&path(*from), &path(*to))
            .await
            .map(|()| Value::Done),
        Rename(from, to, false) => store
            .rename(&path(*from), &path(*to))
            .await
            .map(|()| Value::Done),
        Delete(name) => store.delete(&path(*name)).await.map(|()| Value::Done),
        other => unreachable!("{other:?}"),
    }
}

async fn answer(store: &dyn ObjectStore, operation: &Operation, root: &std::path::Path) -> Answer {
    run(store, operation)
        .await
        .map_err(|error| kind(error, root))
}

/// `LocalFileSystem` sees the same metadata of the same file: location, time, size, etag.
async fn check_metadata(store: &StillmapFileSystem, local: &LocalFileSystem, name: usize) {
    let path = path(name);
    let Ok(expected) = local.get(&path).await else {
        return;
    };
    let found = store.get(&path).await.expect("the object is there");
    assert_eq!(found.meta, expected.meta);
    assert_eq!(
        store.head(&path).await.expect("the object is there"),
        expected.meta
    );
}

fn compare(operations: &[Operation], limits: CacheLimits) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build();
    runtime.expect("a runtime").block_on(async {
        let ours = tempfile::tempdir().expect("a temporary directory");
        let theirs = tempfile::tempdir().expect("a temporary directory");
        let store = StillmapFileSystem::new_with_prefix(ours.path()).expect("a store");
        let store = store.with_cache_limits(limits);
        let local = LocalFileSystem::new_with_prefix(theirs.path()).expect("a store");
        let reference = LocalFileSystem::new_with_prefix(ours.path()).expect("a store");
        for (step, operation) in operations.iter().enumerate() {
            let found = answer(&store, operation, ours.path()).await;
            let expected = answer(&local, operation, theirs.path()).await;
            assert!(
                found == expected,
                "step {step}, {operation:?}:\nfound    {}\nexpected {}",
                shown(&found),
                shown(&expected),
            );
            check_metadata(&store, &reference, step % NAMES.len()).await;
        }
    });
}

/// An answer without its bytes.
fn shown(answer: &Answer) -> String {
    let text = format!("{answer:?}");
    text.chars().take(300).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_local_file_system(operations in vec(operation(), 200)) {
        compare(&operations, CacheLimits::default());
    }

    #[test]
    fn also_with_a_cache_of_two_files(operations in vec(operation(), 200)) {
        compare(&operations, CacheLimits { files: 2, ..CacheLimits::default() });
    }
}
