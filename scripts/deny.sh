#!/usr/bin/env bash
# Licences, sources and banned crates always; known vulnerabilities when the database can be fetched.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:${HULL_TOOLS:-$HOME/.cache/hull/tools}/bin:$PATH"

scripts/tools.sh deny
cargo-deny --log-level error --workspace --all-features check --hide-inclusion-graph bans licenses sources

# The network must never fail a build, but a vulnerability that is found must.
if timeout 60 cargo-deny --log-level error fetch db </dev/null >/dev/null 2>&1; then
    cargo-deny --log-level error --workspace --all-features check --hide-inclusion-graph --disable-fetch advisories
else
    echo "deny: SKIPPED the check for known vulnerabilities: the advisory database cannot be fetched from here"
fi
