//! Property tests whose seed is printed, and can be given again in `STILLMAP_TEST_SEED`.

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::hash::{BuildHasher, Hasher};

/// A seed for one test, printed (libtest shows it if the test fails).
pub fn seed() -> u64 {
    let seed = match std::env::var("STILLMAP_TEST_SEED") {
        Ok(given) => given.parse().expect("STILLMAP_TEST_SEED is a number"),
        Err(_) => std::hash::RandomState::new().build_hasher().finish(),
    };
    println!("STILLMAP_TEST_SEED={seed}");
    seed
}

/// Runs `cases` random cases from a printed seed.
pub fn runner(cases: u32) -> TestRunner {
    let seed = seed();
    let mut bytes = [0u8; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}
