#!/usr/bin/env bash
# Compiles and runs the examples of docs/ecosystem.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cargo test -q
