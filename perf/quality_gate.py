"""Time and memory of the quality gate on many games: python -m perf.quality_gate [trajectories]

The games are written to a temporary file first and then streamed, as the stage does; one thread.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agentrefine.files import short_hash, write_jsonl
from agentrefine.params import load_params
from agentrefine.quality.overlap import all_benchmark_texts, held_out
from tests.helpers.builders import DIALECTS, make_trajectory


def main() -> None:
    """Write the games, judge them in a process of its own and print what that took."""
    if len(sys.argv) == 3:
        judge(Path(sys.argv[2]))
        return
    count = int(sys.argv[1]) if len(sys.argv) == 2 else 64_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        start = time.perf_counter()
        games = (
            make_trajectory(
                n,
                mistakes=2 + n % 2,
                persona=f"Persona {short_hash(str(n // 6))}, who plays six games",
                sample=n % 6,
                dialect=DIALECTS[n % len(DIALECTS)],
            )
            for n in range(count)
        )
        write_jsonl(path / "trajectories.jsonl", games)
        size = (path / "trajectories.jsonl").stat().st_size
        print(f"{count} games, {size / 2**20:.0f} MB, made in {time.perf_counter() - start:.0f} s")
        (path / "dropped.jsonl").touch()
        subprocess.run([sys.executable, "-m", "perf.quality_gate", "judge", str(path)], check=True)


def judge(folder: Path) -> None:
    """Run the gate on the folder's games and print seconds and peak memory."""
    # Great Expectations takes seconds to import: not in the process that makes the games.
    from tasks.quality_gate import run_gate

    params = load_params()
    start = time.perf_counter()
    texts = all_benchmark_texts(params)
    print(f"texts of the benchmarks: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    result = run_gate(
        folder / "trajectories.jsonl",
        folder / "dropped.jsonl",
        folder / "dataset",
        folder / "reports",
        params,
        count_tokens=lambda text: len(text.split()),
        texts=held_out(texts, params.quality_gate.overlap_words),
    )
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"gate: {seconds:.0f} s, peak memory {peak:.0f} MB, failed: {[f.column for f in result.failures]}")
    for kind in ("near_duplicate_share", "script_near_duplicate_share", "persona_near_duplicate_share"):
        print(f"{kind}: {result.data_set[kind]:.4f}")


if __name__ == "__main__":
    main()
