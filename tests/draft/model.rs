//! Random stores, resizes and commits, against a `Vec<u8>`.

use crate::names;
use crate::support::bytes::assert_same;
use crate::support::random::runner;
use crate::support::temp_dir;
use proptest::prelude::*;
use std::fs;
use stillmap::Draft;

#[derive(Clone, Debug)]
enum Act {
    Store {
        at: usize,
        len: usize,
        byte: u8,
    },
    Resize(usize),
    /// Commit, look at the file, and begin a new draft over it.
    Commit,
    Drop,
}

/// Around pages, and around the memory limit of 100,000 bytes.
fn length() -> impl Strategy<Value = usize> {
    let near = |n: usize| n.saturating_sub(3)..n + 3;
    prop_oneof![
        0..5_usize,
        near(4096),
        near(8192),
        near(100_000),
        near(3 << 20),
        0..200_000_usize
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let store = (any::<usize>(), length(), any::<u8>());
    prop_oneof![
        6 => store.prop_map(|(at, len, byte)| Act::Store { at, len, byte }),
        4 => length().prop_map(Act::Resize),
        1 => Just(Act::Commit),
        1 => Just(Act::Drop),
    ]
}

#[test]
fn a_draft_is_a_vector_that_becomes_a_file() {
    let dir = temp_dir();
    let path = dir.path().join("file");
    let stores = 2 + u8::from(crate::can_map(dir.path()));
    let cases = (0..stores, length(), prop::collection::vec(act(), 1..30));
    let ran = runner(150).run(&cases, |(store, len, acts)| {
        let _ = fs::remove_file(&path);
        let options = match store {
            0 => Draft::options(),
            1 => Draft::options().sparse(true),
            _ => Draft::options().memory_limit(100_000),
        };
        let options = options.durable(false);
        let mut published: Option<Vec<u8>> = None;
        let mut draft = options.create(&path, len).unwrap();
        let mut model = vec![0; len];
        for act in acts.iter().cloned().chain([Act::Commit]) {
            match act {
                Act::Store { at, len, byte } => {
                    let at = at % (model.len() + 1);
                    let end = model.len().min(at + len);
                    draft[at..end].fill(byte);
                    model[at..end].fill(byte);
                }
                Act::Resize(len) => {
                    draft.resize(len).unwrap();
                    model.resize(len, 0);
                }
                Act::Commit => {
                    draft.commit().unwrap();
                    published = Some(std::mem::take(&mut model));
                    draft = options.create(&path, 0).unwrap();
                }
                Act::Drop => {
                    draft = options.create(&path, 7).unwrap();
                    model = vec![0; 7];
                }
            }
            assert_same(&draft, &model, "the draft");
            match &published {
                Some(bytes) => assert_same(&fs::read(&path).unwrap(), bytes, "the file"),
                None => assert!(!path.exists()),
            }
        }
        Ok(())
    });
    ran.unwrap();
    assert_eq!(names(dir.path()), ["file"]);
}
