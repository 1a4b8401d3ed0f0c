#!/usr/bin/env bash
# What a merge needs of this adapter: format, lints, documentation, tests. It takes two minutes on two cores.
#   ./ci.sh            all of that
#   ./ci.sh examples   the DataFusion and Ballista examples: many minutes to compile; see examples-datafusion/ci.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ ${1-} == examples ]]; then
    exec ./examples-datafusion/ci.sh
fi
cargo fmt --check
cargo clippy --all-targets --all-features -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features
timeout --kill-after=30 900 cargo test --all-features </dev/null
