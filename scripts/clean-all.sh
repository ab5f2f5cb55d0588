#!/usr/bin/env bash
# Removes everything that `make run` made: virtual machines, networks, images, the data directory, the login key.
# What Cargo built stays (`cargo clean`), and so do Debian's packages.
set -euo pipefail
. "$(dirname "$0")/common.sh"
refuse_if_packaged clean-all

if [ -x "$binary" ] && as_root test -e "$data"; then
    # Deleting is Hull's work: it alone knows the processes, namespaces and cgroups of its virtual machines.
    hull up --background
    hull vm delete --all --wait
    # Networks follow their last virtual machine within moments; stopped before that, Hull would leave them for its next start.
    end=$((SECONDS + 30))
    while as_root ip netns list | grep -q "^${HULL_NETWORK_PREFIX:-hull}-" && [ $SECONDS -lt $end ]; do sleep 0.2; done
    hull down
fi
as_root rm -rf -- "$data"
rm -rf -- "$keys"
echo "clean-all: $data and $keys are gone"
