#!/usr/bin/env bash
# What a merge needs of this adapter: format, lints, documentation, tests. It takes two minutes on two cores.
#   ./ci.sh            all of that
#   ./ci.sh examples   the DataFusion and Ballista examples: many minutes to compile; see examples-datafusion/ci.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# What is built once needs no debug information, which takes disk space.
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_TEST_DEBUG=0

if [[ ${1-} == examples ]]; then
    exec ./examples-datafusion/ci.sh
fi
cargo fmt --check
cargo clippy --all-targets --all-features -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features
timeout --kill-after=30 900 cargo test --all-features </dev/null
