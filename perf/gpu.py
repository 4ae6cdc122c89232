"""Everything that is measured on a GPU, in parts with time limits of their own: `perf/gpu.sh`, docs/gpu.md.

    perf/gpu.sh --inputs INPUTS --results RESULTS
    perf/gpu.sh --inputs INPUTS --results RESULTS --parts checks lora --limit lora=300
    perf/gpu.sh --inputs INPUTS --results RESULTS --size tiny      # the same code on a CPU

`results.json` and `results.md` are written after every figure, so what was measured survives a kill. A part that fails
or is over its limit is reported as such, and the next one runs; the exit status is then 1.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from perf import children

LIMITS = {"base": 45, "checks": 60, "lora": 170, "full": 90, "agents": 165}
"""Seconds of every part, in the order in which they run. What one leaves over goes to the next ones."""

TOTAL = 525
"""Seconds of all of it, Python's start included; installing the wheels comes before it."""


def limit_of(text: str) -> tuple[str, float]:
    """A part and its limit, from `part=seconds`."""
    name, _, seconds = text.partition("=")
    if name not in LIMITS or not seconds.replace(".", "", 1).isdigit():
        raise argparse.ArgumentTypeError(f"{text}: expected part=seconds, the part one of {', '.join(LIMITS)}")
    return name, float(seconds)


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=Path, required=True, help="folder of perf/gpu_prepare.sh: data/, a model")
    parser.add_argument("--results", type=Path, required=True, help="folder, made where it is missing")
    parser.add_argument("--size", choices=["gpu", "tiny"], default="gpu")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS), help="base is always run")
    parser.add_argument(
        "--limit", nargs="+", type=limit_of, default=[], metavar="PART=SECONDS", help="no more, no less"
    )
    parser.add_argument("--total", type=float, default=TOTAL, metavar="SECONDS", help="of all parts together")
    return parser.parse_args()


def stop(number: int, _: object) -> None:
    """End as by an error, so that the running part's processes are ended too."""
    raise SystemExit(128 + number)


def main() -> None:
    """Run the parts."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, stop)
    arguments = options()
    os.environ.update(
        OMP_WAIT_POLICY="PASSIVE", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1",
        PYTORCH_ALLOC_CONF="expandable_segments:True",  # batches of many lengths fragment the memory otherwise
    )  # fmt: skip
    hides_gpus = "CUDA_VISIBLE_DEVICES" not in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", "4")  # of each of the models that play side by side
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # the library refuses one process and several GPUs
    # The libraries are imported there while they are imported here: both take ten seconds.
    children.preload("perf.gpu_parts")
    from perf import gpu_parts
    from perf.gpu_results import Results

    arguments.results.mkdir(parents=True, exist_ok=True)
    results = Results(size=arguments.size)
    limits, exact = {**LIMITS, **dict(arguments.limit)}, dict(arguments.limit)
    end = began + arguments.total
    spare = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        run = gpu_parts.Run(
            inputs=arguments.inputs.resolve(), results=arguments.results.resolve(), scratch=Path(scratch),
            sizes=gpu_parts.SIZES[arguments.size], record=results, hides_gpus=hides_gpus,
        )  # fmt: skip
        for name in (name for name in LIMITS if name in {"base", *arguments.parts}):
            allowed = min(exact.get(name, limits[name] + spare), end - time.monotonic())
            part = run.part(name, allowed)
            print(f"{name}: {part.state}, {part.seconds:.0f} s", flush=True)
            spare = max(0.0, spare + limits[name] - part.seconds)
    print((arguments.results / "results.md").read_text(encoding="utf-8"))
    sys.exit(0 if all(part.state == "done" for part in results.parts.values()) else 1)


if __name__ == "__main__":
    main()
