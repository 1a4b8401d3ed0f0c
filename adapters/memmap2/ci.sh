#!/usr/bin/env bash
# Lints and tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# What is built once needs no debug information, which takes disk space.
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0
cargo fmt --check
cargo clippy --all-targets --all-features -- -D warnings
cargo test --all-features
