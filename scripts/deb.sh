#!/usr/bin/env bash
# Builds the Debian package, with manual pages and completions that the binary itself writes.
set -euo pipefail
. "$(dirname "$0")/common.sh"

scripts/deps.sh build
scripts/tools.sh deb
cargo build --release --quiet -p hull

made=target/package
rm -rf "$made"
mkdir -p "$made/man"
"$binary" man "$made/man"
for shell in bash zsh fish; do "$binary" completion "$shell" >"$made/hull.$shell"; done
gzip -9n "$made"/man/*.1

cargo deb --no-build --quiet -p hull
ls -l "${CARGO_TARGET_DIR:-target}"/debian/*.deb
