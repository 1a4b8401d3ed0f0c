//! Random sizes, windows and chunkings against `std::fs::read` and a naive reader.

use crate::sealed::sealed_memfd;
use crate::support::bytes::{assert_same, cat, pattern};
use crate::support::kernel::offset_of;
use crate::support::pipe::{feed_slowly, pipe};
use crate::support::random::runner;
use crate::support::{file_with, temp_dir};
use proptest::prelude::*;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use stillmap::{Error, Snapshot};

/// Sizes of any order of magnitude, often next to a power of two.
fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..100usize,
        0..20_000usize,
        0..4_000_000usize,
        (6..22u32, -2..=2isize).prop_map(|(bits, off)| (1usize << bits).saturating_add_signed(off)),
    ]
}

/// A window that is inside most of the time, or any numbers at all.
fn windows() -> impl Strategy<Value = (usize, u64, Option<usize>)> {
    sizes().prop_flat_map(|size| {
        let inside = (0..=size).prop_flat_map(move |offset| {
            let len = prop_oneof![Just(None), (0..=size - offset).prop_map(Some)];
            (Just(size), Just(offset as u64), len)
        });
        let near = (
            Just(size),
            0..2 * size as u64 + 2,
            proptest::option::of(0..2 * size + 2),
        );
        let any = (Just(size), any::<u64>(), any::<Option<usize>>());
        prop_oneof![6 => inside, 2 => near, 1 => any]
    })
}

/// The naive rule, in numbers that cannot overflow.
fn cut(all: &[u8], offset: u64, len: Option<usize>) -> Option<&[u8]> {
    let size = all.len() as u128;
    let offset = u128::from(offset);
    let end = match len {
        Some(len) => offset + len as u128,
        None => size,
    };
    (offset <= end && end <= size).then(|| &all[offset as usize..end as usize])
}

fn assert_window(got: Result<Snapshot, Error>, want: Option<&[u8]>, what: &str) {
    match (got, want) {
        (Ok(got), Some(want)) => assert_same(&got, want, what),
        (Err(Error::OutOfBounds { .. }), None) => {}
        (got, want) => panic!("{what}: {got:?}, not {:?} bytes", want.map(<[u8]>::len)),
    }
}

fn with_window(offset: u64, len: Option<usize>) -> stillmap::SnapshotOptions {
    let options = Snapshot::options().offset(offset);
    match len {
        Some(len) => options.len(len),
        None => options,
    }
}

#[test]
fn windows_of_files() {
    let dir = temp_dir();
    let run = |(size, offset, len)| {
        let bytes = pattern(size as u64, size);
        let path = file_with(dir.path(), "file", &bytes);
        let all = std::fs::read(&path).unwrap();
        let want = cut(&all, offset, len);
        assert_window(with_window(offset, len).open(&path), want, "file");
        assert_window(
            with_window(offset, len).lease(false).open(&path),
            want,
            "copy",
        );
        let sealed = sealed_memfd(&bytes);
        assert_window(with_window(offset, len).from_fd(&sealed), want, "sealed");
        assert_same(&stillmap::Snapshot::open(&path).unwrap(), &all, "whole");
        Ok(())
    };
    runner(150).run(&windows(), run).unwrap();
}

#[test]
fn descriptors_at_any_offset() {
    let dir = temp_dir();
    let run = |((size, offset, len), at): ((usize, u64, Option<usize>), usize)| {
        let at = at % (size + 1);
        let bytes = pattern(size as u64, size);
        let path = file_with(dir.path(), "file", &bytes);
        let file = File::open(&path).unwrap();
        (&file).seek(SeekFrom::Start(at as u64)).unwrap();
        let rest = cat(&file).unwrap();
        (&file).seek(SeekFrom::Start(at as u64)).unwrap();
        let want = cut(&rest, offset, len);
        let moved = match want {
            Some(want) => at + offset as usize + want.len(),
            None => at,
        };
        assert_window(with_window(offset, len).from_fd(&file), want, "from_fd");
        assert_eq!(offset_of(&file), moved as u64);
        Ok(())
    };
    runner(150).run(&(windows(), any::<usize>()), run).unwrap();
}

#[test]
fn pipes_in_any_chunks_under_any_limit() {
    let chunk = prop_oneof![1..10usize, 1..5000usize, 1..200_000usize];
    let chunks = proptest::collection::vec(chunk, 0..20);
    let run = |(chunks, limit): (Vec<usize>, Option<usize>)| {
        let bytes = pattern(9, chunks.iter().sum());
        let mut rest = &bytes[..];
        let pieces = chunks.iter().map(|&len| {
            let (piece, after) = rest.split_at(len);
            rest = after;
            piece.to_vec()
        });
        let pieces = pieces.collect();
        let (reader, writer) = pipe();
        let writing = feed_slowly(writer, pieces);
        let options = match limit {
            Some(limit) => Snapshot::options().size_limit(limit as u64),
            None => Snapshot::options(),
        };
        let result = options.from_fd(&reader);
        drop(reader);
        writing.join().unwrap();
        match result {
            Ok(snapshot) => {
                assert!(limit.is_none_or(|limit| bytes.len() <= limit));
                assert_same(&snapshot, &bytes, "pipe");
            }
            Err(Error::TooLarge { .. }) => assert!(limit.is_some_and(|limit| bytes.len() > limit)),
            Err(error) => panic!("{error:?}"),
        }
        Ok(())
    };
    let limits = proptest::option::weighted(0.3, 0..300_000usize);
    runner(60).run(&(chunks, limits), run).unwrap();
}

#[test]
fn windows_of_pipes() {
    let run = |(size, offset, len)| {
        let bytes = pattern(10, size);
        let (reader, writer) = pipe();
        let writing = crate::support::pipe::feed(writer, bytes.clone());
        // An endless offset would be skipped forever, were it not for the end of the pipe.
        let result = with_window(offset, len).from_fd(&reader);
        drop(reader);
        writing.join().unwrap();
        match (result, cut(&bytes, offset, len)) {
            (Ok(got), Some(want)) => assert_same(&got, want, "pipe"),
            (Err(Error::OutOfBounds { .. } | Error::TooLarge { .. }), None) => {}
            (got, want) => panic!("{got:?}, not {:?} bytes", want.map(<[u8]>::len)),
        }
        Ok(())
    };
    runner(80).run(&windows(), run).unwrap();
}
