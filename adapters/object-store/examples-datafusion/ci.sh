#!/usr/bin/env bash
# Compiles and runs the examples. DataFusion and Ballista take many minutes to compile: one compilation for both.
#   STILLMAP_HEAVY=0           skips them
#   STILLMAP_HEAVY_SECONDS=N   the time that compiling may take; default 720
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0

skip() {
    echo "skipped: $*"
    exit 0
}

# build SECONDS FEATURES: fails if the code does not compile, skips the rest if there is not enough time.
build() {
    local status=0
    timeout --kill-after=30 "$1" cargo build --bins --features "$2" </dev/null || status=$?
    if ((status == 124 || status == 137)); then
        skip "$2: not compiled within $1 s; STILLMAP_HEAVY_SECONDS gives it more"
    fi
    return "$status"
}

cargo fmt --check
build 300 ipc
timeout --kill-after=10 60 target/debug/ipc </dev/null
if [[ ${STILLMAP_HEAVY-1} == 0 ]]; then
    skip "query, ballista: STILLMAP_HEAVY is 0"
fi
# Features of one build, so that DataFusion is compiled once.
build "${STILLMAP_HEAVY_SECONDS-720}" ipc,query,ballista
timeout --kill-after=10 120 target/debug/query 200000 </dev/null
timeout --kill-after=10 120 target/debug/ballista </dev/null
