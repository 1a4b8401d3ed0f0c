#!/usr/bin/env bash
# Lints and tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cargo fmt --check
cargo clippy --all-targets --all-features -- -D warnings
cargo test --all-features
