#!/usr/bin/env bash
# Runs every test of the workspace. Needs root: guests, namespaces and cgroups are real.
# Arguments are passed on to cargo nextest, e.g. `scripts/test.sh -p hull-core`.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:${HULL_TOOLS:-$HOME/.cache/hull/tools}/bin:$PATH"

scripts/deps.sh test
if [ "$(id -u)" != 0 ]; then
    echo "test: the tests make namespaces, cgroups and processes of other users; run them as root" >&2
    exit 1
fi
scripts/tools.sh nextest oidc-provider

if [ $# -gt 0 ]; then
    exec cargo nextest run "$@"
fi
cargo nextest run --workspace --no-fail-fast
cargo test --workspace --doc --quiet
