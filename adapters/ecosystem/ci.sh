#!/usr/bin/env bash
# Compiles and runs the examples of docs/ecosystem.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# What is built once needs no debug information, which takes disk space.
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0
cargo test -q
