"""How fast synthesis asks: the stage, bare loops of AsyncOpenAI and distilabel, with the same prompts and server.

`PYTHONPATH=. python perf/synthesis.py` runs the stage and the bare loops in turn, each in a process of its own against
a fresh server (`perf/canned_endpoint.py`), and prints the medians. For distilabel, which wants packages of its own:

    python3.11 -m venv /tmp/distilabel-venv
    /tmp/distilabel-venv/bin/pip install -r perf/distilabel-requirements.txt
    PYTHONPATH=. python perf/synthesis.py --distilabel /tmp/distilabel-venv

Requests a second are counted by the server, from the first call that arrives to the last that is answered, so starting
(imports, Prefect, distilabel's processes) is left out for all alike. Processor time is that of the client's processes
in the same span. Memory is the peak of the whole run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil
import yaml

from agentrefine.game.personas import Persona, load_personas
from agentrefine.params import VerificationParams, load_params
from agentrefine.proxies import keep_loopback_direct
from agentrefine.synthesis.prompts import script_messages, trajectory_messages
from agentrefine.verification.script_rules import verify_script
from perf.canned_endpoint import canned_answer

keep_loopback_direct()
ROOT = Path(__file__).resolve().parent.parent
SECONDS_BETWEEN_SAMPLES = 0.1
MIB = 2**20


MAX_PROBES = 2
"""Calls by which the stage finds out which form of JSON the server honours."""


class Sample(NamedTuple):
    """What a client's processes have used: seconds of processor, bytes of memory of the largest and of all."""

    at: float
    cpu: float
    largest: int
    all: int


class Figures(NamedTuple):
    """Of one run.

    Attributes:
        requests_per_second: answered calls, by the server's clock.
        cpu_milliseconds: of all the client's processes, for each call.
        server_milliseconds: of the server, for each call: it must be well below the client's.
        most_in_flight: calls that were at the server at once.
        largest_mib, all_mib: peak resident memory of the client's largest process, and of all of them.
        wall_seconds: from start to end of the client.
    """

    requests_per_second: float
    cpu_milliseconds: float
    server_milliseconds: float
    most_in_flight: float
    largest_mib: float
    all_mib: float
    wall_seconds: float


class Workload(NamedTuple):
    """What every client asks for, in a folder of its own for each run.

    Attributes:
        folder: holds `personas.jsonl` and `calls.jsonl`.
        personas: how many.
        concurrency, shard_size, processes: of the stage.
    """

    folder: Path
    personas: int
    concurrency: int
    shard_size: int
    processes: int


Command = Callable[[str, Workload, Path], list[str]]


def stage_command(base_url: str, workload: Workload, run_folder: Path) -> list[str]:
    """The stage as `make run` and `dvc repro` start it, in a folder with a params.yaml of its own."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["personas"] = {"path": str(workload.folder / "personas.jsonl"), "limit": None}
    values["synthesis"] = {"samples_per_persona": 1, "shard_size": workload.shard_size}
    # No pilot: it asks for a few personas first, which takes the same time however many there are.
    teacher = {"concurrency": workload.concurrency, "processes": workload.processes, "pilot": {"personas": 0}}
    values["teacher"] |= {"base_url": base_url, "model": "canned", **teacher}
    (run_folder / "params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return [sys.executable, "-m", "flows.synthesis"]


def bare_command(transport: str, loop: str) -> Command:
    """A bare loop of AsyncOpenAI."""

    def command(base_url: str, workload: Workload, _: Path) -> list[str]:
        options = ["--transport", transport, "--loop", loop]
        return [sys.executable, str(ROOT / "perf/bare_loop.py"), *_asked(base_url, workload), *options]

    return command


def distilabel_command(environment: Path) -> Command:
    """distilabel in its virtual environment."""

    def command(base_url: str, workload: Workload, _: Path) -> list[str]:
        python = str(environment / "bin/python")
        return [python, str(ROOT / "perf/distilabel_loop.py"), *_asked(base_url, workload)]

    return command


def _asked(base_url: str, workload: Workload) -> list[str]:
    calls = str(workload.folder / "calls.jsonl")
    return ["--base-url", base_url, "--calls", calls, "--concurrency", str(workload.concurrency)]


def write_workload(folder: Path, personas: int) -> None:
    """The personas, and the prompts of both calls of each: the game's prompt holds the script that will be answered."""
    params = load_params(ROOT / "params.yaml").verification
    texts = [persona.text for persona in load_personas(ROOT / "data/personas.jsonl")]
    with (folder / "personas.jsonl").open("w") as people, (folder / "calls.jsonl").open("w") as calls:
        for number in range(personas):
            text = f"{texts[number % len(texts)]} (number {number})"
            people.write(json.dumps({"persona": text}) + "\n")
        people.close()
        for persona in load_personas(folder / "personas.jsonl"):
            calls.write(json.dumps(_prompts(persona, params)) + "\n")


def _prompts(persona: Persona, params: VerificationParams) -> dict[str, str]:
    prompt = script_messages(persona)[0]["content"]
    script = verify_script(canned_answer(prompt)).script
    assert script is not None
    game = trajectory_messages(persona, script, params)
    return {"script_prompt": prompt, "trajectory_prompt": game[0]["content"]}


@contextmanager
def canned_server(latency: float) -> Iterator[str]:
    """The server's base URL; it runs while the block does."""
    command = [sys.executable, str(ROOT / "perf/canned_endpoint.py"), "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment()) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def measure(command: Command, workload: Workload, latency: float) -> Figures:
    """Run one client against a fresh server.

    Raises:
        SystemExit: the client failed; its output is shown.
    """
    with tempfile.TemporaryDirectory(dir=workload.folder) as name, canned_server(latency) as base_url:
        folder = Path(name)
        log = folder / "output.txt"
        started = time.time()
        with log.open("w") as output:
            arguments = command(base_url, workload, folder)
            client = psutil.Popen(arguments, cwd=folder, stdout=output, stderr=output, env=_environment())
            samples = list(_samples(client))
        if client.wait() != 0:
            raise SystemExit(f"{' '.join(arguments)} failed:\n{log.read_text()[-3000:]}")
        with urllib.request.urlopen(f"{base_url}/counts") as answer:
            counts = json.load(answer)
    if not 0 <= counts["answered"] - 2 * workload.personas <= MAX_PROBES:
        raise SystemExit(f"{' '.join(arguments)}: {counts['answered']} calls instead of {2 * workload.personas}")
    cpu = _cpu_at(samples, counts["last_answer"]) - _cpu_at(samples, counts["first_arrival"])
    return Figures(
        requests_per_second=counts["answered"] / (counts["last_answer"] - counts["first_arrival"]),
        cpu_milliseconds=1000 * cpu / counts["answered"],
        server_milliseconds=1000 * counts["cpu_seconds"] / counts["answered"],
        most_in_flight=counts["most_in_flight"],
        largest_mib=max(sample.largest for sample in samples) / MIB,
        all_mib=max(sample.all for sample in samples) / MIB,
        wall_seconds=time.time() - started,
    )


def _samples(client: psutil.Popen) -> Iterator[Sample]:
    """What the client's processes use, until it ends. Processor time of those that have ended is kept."""
    used: dict[int, float] = {}
    while client.poll() is None:
        memory = []
        for process in _family(client):
            try:
                times = process.cpu_times()
                memory.append(process.memory_info().rss)
            except psutil.Error:  # it has just ended
                continue
            used[process.pid] = times.user + times.system
        if memory:
            yield Sample(time.time(), sum(used.values()), max(memory), sum(memory))
        time.sleep(SECONDS_BETWEEN_SAMPLES)


def _family(client: psutil.Popen) -> list[psutil.Process]:
    try:
        return [client, *client.children(recursive=True)]
    except psutil.Error:
        return []


def _cpu_at(samples: list[Sample], moment: float) -> float:
    """Processor seconds at a moment, between the two samples around it."""
    for before, after in pairwise(samples):
        if before.at <= moment <= after.at:
            share = (moment - before.at) / (after.at - before.at)
            return before.cpu + share * (after.cpu - before.cpu)
    return samples[-1].cpu


def _environment() -> dict[str, str]:
    quiet = {"PREFECT_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "true"}
    return {**os.environ, **quiet, "PYTHONPATH": str(ROOT)}


def print_row(name: str, runs: list[Figures]) -> None:
    """One row: medians, and the range of the rate."""
    middle = Figures(*(statistics.median(figures) for figures in zip(*runs, strict=True)))
    rates = [run.requests_per_second for run in runs]
    print(
        f"{name:24s} {middle.requests_per_second:6.0f} [{min(rates):.0f}, {max(rates):.0f}] requests/s"
        f"  {middle.cpu_milliseconds:5.2f} ms CPU/call  (server {middle.server_milliseconds:.2f})"
        f"  {middle.largest_mib:5.0f} MiB ({middle.all_mib:.0f} all)  in flight {middle.most_in_flight:.0f}"
        f"  {middle.wall_seconds:5.1f} s in all",
        flush=True,
    )


def main() -> None:
    """Print each run as it ends, then one row of medians for each client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--personas", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.2, metavar="SECONDS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-size", type=int, default=2000, help="of the stage")
    parser.add_argument("--processes", type=int, default=1, help="of the stage")
    parser.add_argument("--distilabel", type=Path, metavar="VENV", help="its virtual environment")
    parser.add_argument("--only", nargs="+", metavar="CLIENT", help="of those that are printed")
    arguments = parser.parse_args()
    clients: dict[str, Command] = {
        "stage": stage_command,
        "bare-aiohttp-uvloop": bare_command("aiohttp", "uvloop"),
        "bare-aiohttp": bare_command("aiohttp", "asyncio"),
        "bare-httpx": bare_command("httpx", "asyncio"),
    }
    if arguments.distilabel:
        clients["distilabel"] = distilabel_command(arguments.distilabel.resolve())
    names = [name for name in clients if not arguments.only or name in arguments.only]
    runs: dict[str, list[Figures]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        shape = (arguments.personas, arguments.concurrency, arguments.shard_size, arguments.processes)
        workload = Workload(Path(folder), *shape)
        write_workload(workload.folder, workload.personas)
        for _ in range(arguments.rounds):
            for name in names:
                runs[name].append(measure(clients[name], workload, arguments.latency))
                print_row(name, runs[name][-1:])
    print("medians:")
    for name in names:
        print_row(name, runs[name])


if __name__ == "__main__":
    main()
