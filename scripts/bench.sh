#!/usr/bin/env bash
# Measures Hull against its budgets and prints the table, each figure the median of several runs.
set -euo pipefail
. "$(dirname "$0")/common.sh"

scripts/deps.sh bench
cargo build --release --quiet -p hull
exec cargo bench --quiet -p hull --bench budgets -- "$@"
