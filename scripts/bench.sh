#!/usr/bin/env bash
# Measures Hull against its budgets and prints the table, each figure the median of several runs. As root.
# Arguments: `quick` for a shorter form; names of budgets (placement network start create list boot migration import debian) for some of them.
set -euo pipefail
. "$(dirname "$0")/common.sh"

scripts/deps.sh bench
if [ "$(id -u)" != 0 ]; then
    echo "bench: guests, namespaces and cgroups are real; run it as root" >&2
    exit 1
fi
exec cargo bench --quiet -p hull --bench budgets -- "$@"
