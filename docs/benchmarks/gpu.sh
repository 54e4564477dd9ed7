#!/usr/bin/env bash
# All GPU measurements in one call: docs/benchmarks/gpu.sh --budget 480; results.json and log.txt in $OUT.
# Nothing need be installed but the packages that dllm-sdk needs, and pytest for the tests; nothing is fetched.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
metadata=$(mktemp -d)
trap 'rm -rf "$metadata"' EXIT
export PYTHONPATH="$metadata:$root/sdk:$root/reference_model:$root/strategies:$root${PYTHONPATH:+:$PYTHONPATH}"
python3 "$root/docs/benchmarks/gpu.py" metadata "$metadata"
python3 "$root/docs/benchmarks/gpu.py" run --output "${OUT:-$PWD/gpu-results}" "$@"
