"""Kill a run again and again, then finish it: `python perf/soak.py --kills 20`.

One run (synthesis, verification and repair of a clone of this repository) is killed with SIGKILL at random moments
and started again by the same command each time. The teacher is the simulated one as a server of its own, and its
request log is the witness of what was paid. Printed at the end:

- whether every file of the data is byte for byte that of a run that nobody killed;
- how many answers were paid for twice, and how long before a kill each of them had been sent: an answer on its way when
  its reader dies is lost to anyone. The journal holds every other one.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from agentrefine.proxies import keep_loopback_direct

keep_loopback_direct()

ROOT = Path(__file__).parent.parent
STAGES = ("synthesis", "verification", "repair")
COMMAND = " && ".join(f"{sys.executable} -m flows.{stage}" for stage in STAGES)
FAULTS = {
    "script_faults": 0.18,
    "trajectory_faults": 0.36,
    "wire_faults": 0.05,
    # not slow_body: an answer that takes a second is on its way for a second
    "wire_fault_kinds": ["too_many_requests", "server_error", "reset", "wrong_content_type", "truncated_body"],
}


@contextmanager
def started(command: Sequence[str], folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A server, and the file of its output."""
    output = folder / f"{command[2]}.log"
    with output.open("w") as handle:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=handle, stderr=handle)
    try:
        yield output
    finally:
        process.terminate()
        process.wait(30)


def answers(address: str) -> bool:
    """Whether a server answers at an address."""
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for something that a server does while it starts."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a server does not start")
        time.sleep(0.2)


def clone(folder: Path, base_url: str, personas: int, seconds: float) -> Path:
    """A clone of the repository that asks the server at `base_url`."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values["personas"]["limit"] = personas
    values["teacher"].update(base_url=base_url, timeout_seconds=seconds)
    values["synthesis"].update(samples_per_persona=1, shard_size=100)
    path.write_text(yaml.safe_dump(values))
    return folder


def answered(log: Path) -> list[dict[str, object]]:
    """The requests that the server has answered."""
    return [entry for line in log.read_text().splitlines() if (entry := json.loads(line))["outcome"] == "answered"]


def data(folder: Path) -> dict[str, bytes]:
    """The bytes of the stages' files."""
    names = [path for stage in STAGES for path in sorted((folder / "data" / stage).iterdir())]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}


def run_and_kill(folder: Path, environment: dict[str, str], log: Path, draw: random.Random) -> float | None:
    """Start the run and kill it at a random moment; the time of the kill, or None when the run was faster."""
    before = len(answered(log))
    calls, seconds = draw.randint(1, 60), draw.uniform(2, 25)
    started_at = time.time()
    with (folder / "run.log").open("w") as output:
        process = subprocess.Popen(
            ["/bin/bash", "-c", COMMAND],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    while process.poll() is None:
        if len(answered(log)) - before >= calls or time.time() - started_at > seconds:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return time.time()
        time.sleep(0.02)
    print((folder / "run.log").read_text()[-2000:])
    return None


def main() -> None:
    """Run it all and print what was found; exit status 1 when something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--personas", type=int, default=300)
    parser.add_argument("--latency", type=float, default=0.3, help="seconds that each answer takes")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder, log = Path(name), Path(name) / "requests.jsonl"
        log.touch()
        environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "true"}
        api = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", "4299", "--no-ui"]
        teacher = [sys.executable, "-m", "agentrefine.simulation", "--latency", str(arguments.latency)]
        teacher += ["--log", str(log), "--params", json.dumps(FAULTS)]
        with started(api, folder, environment), started(teacher, folder, environment) as printed:
            environment["PREFECT_API_URL"] = "http://127.0.0.1:4299/api"
            wait_until(lambda: answers("http://127.0.0.1:4299/api/health") and "/v1" in printed.read_text())
            base_url = printed.read_text().strip()
            killed = clone(folder / "killed", base_url, arguments.personas, 10)
            kills = []
            for number in range(arguments.kills):
                moment = run_and_kill(killed, environment, log, draw)
                print(f"kill {number + 1}: {len(answered(log))} answers so far", flush=True)
                if moment is None:
                    print("the run ended before it was killed; give more personas")
                    break
                kills.append(moment)
            subprocess.run(["/bin/bash", "-c", COMMAND], cwd=killed, env=environment, check=True, capture_output=True)
            paid = answered(log)
            whole = clone(folder / "whole", base_url, arguments.personas, 10)
            subprocess.run(["/bin/bash", "-c", COMMAND], cwd=whole, env=environment, check=True, capture_output=True)
        report(data(killed), data(whole), paid, kills, killed / "data/journal/answers.sqlite")


def report(
    killed: dict[str, bytes], whole: dict[str, bytes], paid: list[dict[str, object]], kills: list[float], journal: Path
) -> None:
    """Print what was found."""
    counts = Counter(str(entry["key"]) for entry in paid)
    with sqlite3.connect(journal) as connection:
        kept = connection.execute("SELECT count(*) FROM answers").fetchone()[0]
    twice = [key for key, count in counts.items() if count > 1]
    leads = [0.0]  # seconds from an answer that was paid for again to the nearest kill; negative: sent after it
    for key in twice:
        sent = sorted(float(str(entry["time"])) for entry in paid if entry["key"] == key)
        leads += [min((kill - moment for kill in kills), key=abs) for moment in sent[:-1]]
    print(f"kills: {len(kills)}; answers paid for: {len(paid)}; different ones: {len(counts)}; in the journal: {kept}")
    print(f"paid for twice: {len(twice)}; sent at most {max(leads):.3f} s before a kill, or after it")
    same = killed == whole
    print(f"files the same as those of a run that nobody killed: {same} ({', '.join(killed)})")
    if not same or kept != len(counts) or max(leads) > 1:
        sys.exit(1)


if __name__ == "__main__":
    main()
