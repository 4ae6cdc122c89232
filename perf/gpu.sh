#!/usr/bin/env bash
# Measure on one GPU, in at most nine minutes: perf/gpu.sh --inputs INPUTS --results RESULTS (perf/gpu.py, docs/gpu.md).
# Wheels in INPUTS/wheels are installed into a folder of their own first, in front of what Python has.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
inputs=
for ((i = 1; i <= $#; i++)); do
  [[ ${!i} == --inputs ]] && next=$((i + 1)) && inputs=${!next:-}
done
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
if compgen -G "$inputs/wheels/*.whl" >/dev/null; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --target "$site" "$inputs"/wheels/*.whl
  export PYTHONPATH=$site:$PYTHONPATH
fi
"$python" -m perf.gpu "$@"
