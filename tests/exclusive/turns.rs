//! Processes that take turns: nothing is lost, nothing is mixed.

use crate::support::child::{fork, report, scenario};
use crate::support::exclusive::{any_system, open_counting};
use crate::support::file_with;
use std::fs;
use std::path::Path;

const ROUNDS: u64 = 1500;

/// Counts up in every page; pages that disagree show stores of another process.
fn count(path: &Path) -> u64 {
    let mut busy = 0;
    for _ in 0..ROUNDS {
        let mut file = open_counting(path, &mut busy);
        let first = u64::from_le_bytes(file[..8].try_into().unwrap());
        for page in file.chunks_mut(4096) {
            let number = u64::from_le_bytes(page[..8].try_into().unwrap());
            assert_eq!(number, first, "pages disagree");
            page[..8].copy_from_slice(&(number + 1).to_le_bytes());
        }
        file.close().unwrap();
    }
    busy
}

#[test]
fn two_processes_lose_and_mix_nothing_over_thousands_of_rounds() {
    scenario!(|| {
        let Some(system) = any_system() else {
            return;
        };
        let path = file_with(system.path(), "file", &[0; 4 * 4096]);
        let other = fork(|| {
            count(&path);
        });
        let busy = count(&path);
        other.succeed();
        report(format_args!("busy {busy} times"));
        let bytes = fs::read(&path).unwrap();
        for page in bytes.chunks(4096) {
            assert_eq!(
                u64::from_le_bytes(page[..8].try_into().unwrap()),
                2 * ROUNDS
            );
        }
    })
    .succeed();
}

#[test]
fn readers_and_writers_in_between_see_whole_rounds() {
    let Some(system) = any_system() else { return };
    let path = file_with(system.path(), "file", &[0; 3 * 4096]);
    std::thread::scope(|scope| {
        let editor = scope.spawn(|| {
            for round in 1..=200_u8 {
                let mut file = open_counting(&path, &mut 0);
                for byte in file.iter_mut() {
                    *byte = round;
                }
                drop(file);
            }
        });
        while !editor.is_finished() {
            // Each read opens, so it waits until no edit is under way.
            let bytes = fs::read(&path).unwrap();
            assert!(bytes.len() == 3 * 4096 && bytes.iter().all(|&byte| byte == bytes[0]));
        }
    });
    assert_eq!(fs::read(&path).unwrap(), [200; 3 * 4096]);
}
