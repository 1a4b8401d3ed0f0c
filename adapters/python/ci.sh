#!/usr/bin/env bash
# Builds the wheel and runs the tests, in a virtual environment of its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "skipped: python: Python 3.11 or later is needed"; exit 0; }
python3 -m venv target/venv || { echo "skipped: python: no virtual environments here"; exit 0; }
target/venv/bin/pip install -q maturin pytest numpy pyarrow || { echo "skipped: python: the packages could not be installed"; exit 0; }
cargo fmt --check
cargo clippy --release -- -D warnings
rm -rf dist
target/venv/bin/maturin build --release --out dist
target/venv/bin/pip install -q --force-reinstall --no-deps dist/*.whl
target/venv/bin/pytest -q
