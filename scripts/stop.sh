#!/usr/bin/env bash
# Stops Hull. Its virtual machines go on running and are found again by the next `make run`.
set -euo pipefail
. "$(dirname "$0")/common.sh"
refuse_if_packaged stop

if [ ! -x "$binary" ]; then
    echo "stop: nothing was built here, so nothing runs"
    exit 0
fi
hull down
