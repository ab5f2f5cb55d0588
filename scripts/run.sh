#!/usr/bin/env bash
# From bare Debian 12 to a virtual machine you can log in to. Every step first looks whether it is done already.
#   HULL_DATA=DIR    where Hull keeps everything   [/var/lib/hull]
set -euo pipefail
. "$(dirname "$0")/common.sh"
refuse_if_packaged run

vm=hello
image=debian-12
boot_deadline=900 # seconds; without hardware acceleration a stock Debian takes one or two minutes of CPU

steps=()
step() { # sentence command…
    local sentence=$1 started=$EPOCHREALTIME
    shift
    printf '\n==> %s\n' "$sentence"
    "$@"
    steps+=("$(awk -v a="$started" -v b="$EPOCHREALTIME" -v s="$sentence" 'BEGIN { printf "%8.1f s  %s", b - a, s }')")
}

build() { cargo build --release --quiet -p hull; }

start() {
    # A Hull of an older build is replaced; its virtual machines do not notice.
    local pid
    pid=$(as_root head -n 1 "$data/hull.lock" 2>/dev/null || true)
    if [ -n "$pid" ] && [[ "$(as_root readlink "/proc/$pid/exe" || true)" == *"/hull (deleted)" ]]; then hull down; fi
    hull up --background
}

have_image() {
    if hull image show "$image" >/dev/null 2>&1; then
        echo "image $image is there"
    else
        hull image build "$image"
    fi
}

login_key() {
    [ -f "$keys/id_ed25519" ] && return
    mkdir -p -m 0700 "$keys"
    ssh-keygen -q -t ed25519 -N '' -C "hull make run" -f "$keys/id_ed25519"
}

have_vm() {
    login_key
    if hull vm show "$vm" >/dev/null 2>&1; then
        echo "virtual machine $vm is there"
        hull vm start "$vm" --wait >/dev/null 2>&1 || true # it runs already, or the next step tells why not
    else
        hull vm create "$vm" --image "$image" --flavor small --ssh-key "$keys/id_ed25519.pub" --wait
    fi
}

inside() { hull ssh "$vm" --identity "$keys/id_ed25519" -- "$@"; }

wait_for_ssh() {
    local end=$((SECONDS + boot_deadline))
    until inside true >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            echo "run: $vm did not answer over ssh within $boot_deadline s; its console says:" >&2
            hull vm log "$vm" | tail -n 20 >&2
            hull explain vm "$vm" >&2 || true
            exit 1
        fi
        sleep 1
    done
}

say() { # shows a command as typed inside, and what it answers
    printf '%s$ %s\n' "debian@$vm:~" "$1"
    inside "$1" || printf '(exit code %d)\n' $?
}

transcript() {
    say 'uname -r'
    say 'nproc'
    say 'free -m'
    say 'systemctl is-system-running --wait'
    say 'sudo modprobe dummy && lsmod | grep dummy'
    say 'sudo sysctl -w net.ipv4.ip_forward=1'
}

step "install what is missing from Debian" scripts/deps.sh run
step "build hull" build
step "start Hull on $data" start
step "have the image $image" have_image
step "have the virtual machine $vm" have_vm
step "wait until $vm answers over ssh" wait_for_ssh
step "inside $vm, over ssh" transcript

printf '\nTime each step took:\n'
printf '%s\n' "${steps[@]}"

prefix=$([ "$(id -u)" = 0 ] || echo 'sudo ')$binary$([ "$data" = /var/lib/hull ] || echo " --data-dir $data")
cat <<END

What to type next:
    $prefix ssh $vm -i $keys/id_ed25519     log in
    $prefix status                          what runs
    $prefix vm create web1 --image $image --flavor small --wait
    $prefix vm log $vm                      what its serial console showed
    $prefix --help                          everything else
    make stop                               stop Hull; the virtual machines stay
    make clean-all                          remove everything this made
END
