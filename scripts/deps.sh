#!/usr/bin/env bash
# Installs what Hull needs from Debian 12: `scripts/deps.sh run|build|test|bench`.
# Says in one line each what it installs and why; does nothing when all is there.
set -euo pipefail

goal=${1:-run}
case $goal in
    run | build | test | bench) ;;
    *) echo "usage: scripts/deps.sh run|build|test|bench" >&2; exit 2 ;;
esac

# package|what for
build_packages='
gcc|compiles the C parts of our crates (SQLite, zstd, the TLS library)
libc6-dev|headers for the same
make|runs the Makefile
git|stamps the version into the binary
ca-certificates|lets downloads be verified'

run_packages='
qemu-system-x86|runs the virtual machines
qemu-utils|converts and inspects disk images
ovmf|UEFI firmware for virtual machines
swtpm|virtual TPM
swtpm-tools|sets a virtual TPM up
nftables|security groups and NAT
iproute2|namespaces, bridges, rate limits
kmod|loads kernel modules of the host
mmdebstrap|builds Debian images
mtools|writes the EFI partition of an image
dosfstools|makes the EFI partition of an image
e2fsprogs|makes the root file system of an image
fdisk|partitions an image
grub-pc-bin|boots an image by BIOS
grub-efi-amd64-bin|boots an image by UEFI
grub-common|grub-mkimage, for both
openssh-client|hull ssh'

test_packages='
binutils|assembles the unikernel of the tests
busybox-static|user space of the tiny guest
dropbear-bin|ssh server of the tiny guest
memtest86+|a foreign kernel to boot directly
grub-invaders|a multiboot kernel to boot directly
cpio|inspects initial file systems
tcpdump|looks at packets in tests
bind9-dnsutils|asks DNS servers in tests
iputils-ping|asks whether an address answers
iputils-arping|asks whether an address is spoofed
ndisc6|asks for router advertisements
isc-dhcp-client|plays a guest that speaks DHCPv6
jq|reads JSON in scripts
openssl|makes a PKCE challenge by hand
curl|speaks to the API as a stranger would
procps|looks at processes in tests'

bench_packages='
libvirt-daemon-system|the peer that the benchmark compares with
libvirt-clients|virsh, for the same'

# The identity provider that tests log in at runs in node, whoever it came from.
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    test_packages+='
nodejs|runs the identity provider of the tests
npm|installs the identity provider of the tests'
fi

wanted=$build_packages
[ "$goal" = build ] || wanted+=$run_packages
[ "$goal" != test ] && [ "$goal" != bench ] || wanted+=$test_packages
[ "$goal" != bench ] || wanted+=$bench_packages

present=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
installed() { [[ $'\n'$present$'\n' == *$'\n'"$1"$'\n'* ]]; }

missing=()
while IFS='|' read -r package reason; do
    [ -n "$package" ] && ! installed "$package" || continue
    printf 'deps: will install %-22s %s\n' "$package" "$reason"
    missing+=("$package")
done <<<"$wanted"

# The tiny guest's kernel is taken out of its package without installing it; apt must know where it is.
stale=
if [ "$goal" = test ] || [ "$goal" = bench ]; then
    compgen -G '/var/lib/apt/lists/*Packages*' >/dev/null || stale=yes
fi

if [ ${#missing[@]} -gt 0 ] || [ -n "$stale" ]; then
    if [ "$(id -u)" = 0 ]; then
        as_root=(env DEBIAN_FRONTEND=noninteractive)
    elif command -v sudo >/dev/null; then
        as_root=(sudo env DEBIAN_FRONTEND=noninteractive)
    else
        echo "deps: installing packages needs root; run this as root, or install sudo" >&2
        exit 1
    fi
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    quietly() { "${as_root[@]}" "$@" >"$log" 2>&1 </dev/null || { tail -n 30 "$log" >&2; echo "deps: failed: $*" >&2; exit 1; }; }

    quietly apt-get update -q
    # A qemu-utils from backports breaks the qemu-system of Debian 12 (and apt will not downgrade by itself):
    # both must come from one version.
    candidate() { apt-cache policy "$1" | sed -n 's/^  Candidate: //p'; }
    options=()
    if [[ " ${missing[*]} " == *" qemu-system-x86 "* ]] && installed qemu-utils; then
        have=$(dpkg-query -W -f '${Version}' qemu-utils)
        want=$(candidate qemu-system-x86)
        if [ "$have" != "$want" ]; then
            echo "deps: will replace qemu-utils $have with $want: it must be of one version with qemu-system-x86"
            missing+=("qemu-utils=$want")
            ! installed qemu-block-extra || missing+=("qemu-block-extra=$want")
            options=(--allow-downgrades)
        fi
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        quietly apt-get install -q -y --no-install-recommends "${options[@]}" "${missing[@]}"
        echo "deps: installed ${#missing[@]} packages"
    fi
fi

if ! command -v cargo >/dev/null && [ ! -x "$HOME/.cargo/bin/cargo" ]; then
    echo "deps: Rust is missing; install it with this line and start again:" >&2
    echo "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y && . \"\$HOME/.cargo/env\"" >&2
    exit 1
fi
