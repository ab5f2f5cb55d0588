#!/usr/bin/env bash
# What reviewers should never have to say: format, clippy, licences and sources of dependencies.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:${HULL_TOOLS:-$HOME/.cache/hull/tools}/bin:$PATH"

cargo fmt --all --check
cargo clippy --workspace --all-targets --quiet -- -D warnings
scripts/deny.sh
