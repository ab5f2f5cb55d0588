# Sourced by the scripts that drive a Hull on this machine: where things are, and how to be root.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$HOME/.cargo/bin:${HULL_TOOLS:-$HOME/.cache/hull/tools}/bin:$PATH"

# Not below the clone: virtual machines run as users of their own, who may not look into a home directory.
data=${HULL_DATA:-/var/lib/hull}
binary=${CARGO_TARGET_DIR:-target}/release/hull
keys=$PWD/.hull

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

hull() { as_root "$binary" --data-dir "$data" "$@"; }

# A package's Hull on the same directory is not ours to stop or to delete.
refuse_if_packaged() {
    if [ "$data" = /var/lib/hull ] && systemctl is-active --quiet hull 2>/dev/null; then
        echo "$1: the installed hull.service uses $data; set HULL_DATA to another directory, or stop the service" >&2
        exit 1
    fi
}
