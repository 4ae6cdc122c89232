"""Synthesis and repair as commands against a teacher whose request log is the witness of what was paid."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentrefine.params import load_params
from agentrefine.params.teacher import SimulatedTeacher
from agentrefine.simulation.process import simulated_teacher
from tests.helpers.paths import ROOT
from tests.helpers.project import ProjectCopy, digests

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

WITHOUT_WIRE_FAULTS = load_params(ROOT / "params.yaml").teacher.offline.model_copy(update={"wire_faults": 0.0})
STAGES = ("synthesis", "verification", "repair")
PERSONAS, SAMPLES = 12, 2


class Witness:
    """A teacher outside of the project, and what it was asked."""

    def __init__(self, base_url: str, log: Path) -> None:
        self.base_url = base_url
        self._log = log

    @property
    def answered(self) -> list[str]:
        """The keys of the requests that it has answered."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line["key"] for line in map(json.loads, lines) if line["outcome"] == "answered"]


@contextmanager
def teacher(folder: Path, *flags: str, params: SimulatedTeacher = WITHOUT_WIRE_FAULTS) -> Iterator[Witness]:
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "requests.jsonl"
    with simulated_teacher(params, "--log", str(log), *flags) as base_url:
        yield Witness(base_url, log)


def project_at(folder: Path, base_url: str, **values: object) -> ProjectCopy:
    project = ProjectCopy.make(folder)
    project.set_params(
        **{
            "personas.limit": PERSONAS,
            "synthesis.samples_per_persona": SAMPLES,
            "synthesis.shard_size": 5,
            "teacher.base_url": base_url,
            "teacher.structured_output": "text",
            "teacher.pilot.personas": 2,
            **values,
        }
    )
    return project


def run(project: ProjectCopy, *stages: str) -> str:
    """Run stages that must end well; what they print as errors and logs."""
    said = ""
    for stage in stages:
        done = project.stage(stage)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        said += done.stderr
    return said


def heed_interrupts() -> None:
    """A job that a shell has put into the background ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def journaled(project: ProjectCopy) -> int:
    with sqlite3.connect(project.folder / "data/journal/answers.sqlite") as journal:
        count = journal.execute("SELECT count(*) FROM answers").fetchone()[0]
    journal.close()
    return int(count)


def metrics(project: ProjectCopy, stage: str) -> dict[str, Any]:
    return dict(json.loads((project.folder / f"data/{stage}/metrics.json").read_text()))


def records(project: ProjectCopy, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.folder / "data" / name).read_text().splitlines()]


def results(project: ProjectCopy) -> dict[str, bytes]:
    return {
        f"{stage}/{name}": text for stage in STAGES for name, text in digests(project.folder / "data" / stage).items()
    }


def without_ids(project: ProjectCopy) -> list[dict[str, Any]]:
    """Answers and games without the ids of answers, in which the teacher's address stands."""
    found = [*records(project, "synthesis/attempts.jsonl"), *records(project, "repair/trajectories.jsonl")]
    return [{key: value for key, value in record.items() if key not in ("id", "calls")} for record in found]


def priced(project: ProjectCopy, **price: float) -> None:
    table = {"listed": "test", "models": {"offline-teacher": price}}
    (project.folder / "prices.yaml").write_text(yaml.safe_dump(table))
    project.set_params(**{"teacher.prices": "prices.yaml"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ProjectCopy, Witness]]:
    """A project that has run the three stages in one process, its teacher still up."""
    folder = tmp_path_factory.mktemp("one")
    with teacher(folder) as witness:
        project = project_at(folder / "project", witness.base_url)
        run(project, *STAGES)
        yield project, witness


def test_every_persona_ends_as_exactly_one_of_kept_or_dropped(finished: tuple[ProjectCopy, Witness]) -> None:
    project, _ = finished
    kept, dropped = (records(project, f"repair/{name}.jsonl") for name in ("trajectories", "dropped"))
    costs, counts = records(project, "repair/costs.jsonl"), metrics(project, "repair")
    samples = [(record["persona_id"], record["sample"]) for record in kept + dropped]
    assert len(set(samples)) == len(samples) == PERSONAS * SAMPLES
    assert (counts["kept"], counts["dropped"]) == (len(kept), len(dropped))
    assert counts["samples"] == counts["kept"] + counts["dropped"] == metrics(project, "synthesis")["samples"]
    assert counts["personas"] == counts["personas_kept"] + counts["personas_dropped"] == len(costs) == PERSONAS
    assert counts["personas_kept"] == len({record["persona_id"] for record in kept})
    assert all(record["rule"] and record["message"] and record["calls"] <= 4 for record in dropped)
    assert Counter(record["rule"] for record in dropped) == counts["dropped_by_rule"]


def test_calls_tokens_and_costs_add_up(finished: tuple[ProjectCopy, Witness]) -> None:
    project, witness = finished
    first, then = metrics(project, "synthesis"), metrics(project, "repair")
    whole, costs = then["with_synthesis"], records(project, "repair/costs.jsonl")
    for figure in ("calls", "prompt_tokens", "completion_tokens", "cached_tokens"):
        assert whole[figure] == first[figure] + then[figure] == sum(record[figure] for record in costs)
    assert (
        first["calls"] == first["scripts"] + first["trajectories"] == len(records(project, "synthesis/attempts.jsonl"))
    )
    assert whole["calls"] == len(witness.answered) == journaled(project), "the pilot's calls are not paid twice"
    assert whole["calls"] <= 4 * PERSONAS * SAMPLES
    assert whole["cost_usd"] == 0.0


def test_a_second_run_asks_for_nothing_and_leaves_the_same_bytes(finished: tuple[ProjectCopy, Witness]) -> None:
    project, witness = finished
    before, asked = results(project), len(witness.answered)
    said = run(project, *STAGES)
    assert results(project) == before
    assert len(witness.answered) == asked
    assert "forecast for 12 personas from a pilot of 2 (95% intervals): cost $0.00" in said


def test_the_forecast_by_itself_prints_its_sentence(finished: tuple[ProjectCopy, Witness]) -> None:
    project, witness = finished
    asked = len(witness.answered)
    done = project.run("python", "-m", "flows.cli", "forecast")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("forecast for 12 personas from a pilot of 2")
    assert len(witness.answered) == asked


def test_data_are_the_same_without_a_pilot(finished: tuple[ProjectCopy, Witness], tmp_path: Path) -> None:
    one, witness = finished
    before = len(witness.answered)
    project = project_at(tmp_path / "project", witness.base_url, **{"teacher.pilot.personas": 0})
    said = run(project, *STAGES)
    assert "forecast for" not in said
    assert results(project) == results(one)
    assert len(witness.answered) - before == journaled(project) == journaled(one)


@pytest.mark.parametrize(("limit", "head"), [(1, "for 1 persona, with whom"), (2, "for 2 personas, with whom")])
def test_a_forecast_for_no_more_personas_than_the_pilot_has_is_exact(
    finished: tuple[ProjectCopy, Witness], limit: int, head: str
) -> None:
    project, witness = finished
    asked = len(witness.answered)
    project.set_params(**{"personas.limit": limit, "teacher.pilot.personas": 8})
    done = project.run("python", "-m", "flows.cli", "forecast")
    project.set_params(**{"personas.limit": PERSONAS, "teacher.pilot.personas": 2})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(head)
    assert "s a call, 16 at once" in done.stdout
    assert len(witness.answered) == asked


USELESS = WITHOUT_WIRE_FAULTS.model_copy(update={"script_faults": 1.0})
POOR = WITHOUT_WIRE_FAULTS.model_copy(update={"script_faults": 0.0, "trajectory_faults": 0.7})


def last_words(stderr: str) -> str:
    """What a command prints when it ends with a sentence."""
    return stderr[stderr.rindex("\nteacher: ") :]


def test_a_pilot_that_keeps_nothing_stops_the_run_before_the_rest_is_asked_for(tmp_path: Path) -> None:
    with teacher(tmp_path, params=USELESS) as witness:
        project = project_at(tmp_path / "project", witness.base_url, **{"teacher.pilot.on_low": "continue"})
        done = project.stage("synthesis")
        assert done.returncode == 1
        assert 0 < len(witness.answered) <= 4 * 2 * SAMPLES
    said = last_words(done.stderr)
    assert f"the pilot of 2 personas kept none of its {2 * SAMPLES} samples. Most often: " in said
    assert "teacher.pilot.personas to 0" in said
    assert "\n\nAn answer that broke " in said
    assert len(said.split("):\n\n")[1]) > 20, "the answer itself"
    assert not list((project.folder / "data/synthesis").glob("*"))


def test_a_pilot_that_keeps_little_asks_or_does_as_the_parameter_says(tmp_path: Path) -> None:
    settings = {"teacher.pilot.personas": 4, "teacher.pilot.min_kept_share": 1.0, "repair.call_budget": 2}
    with teacher(tmp_path, params=POOR) as witness:
        project = project_at(tmp_path / "project", witness.base_url, **settings)
        unattended = project.stage("synthesis")
        assert unattended.returncode == 1
        said = last_words(unattended.stderr)
        assert "teacher.pilot.min_kept_share is 100%, and there is no terminal to ask at" in said
        assert "set teacher.pilot.on_low to continue" in said
        pilot = len(witness.answered)
        assert pilot <= 2 * 4 * SAMPLES
        assert "there is no terminal to ask at" in in_the_background_of_a_terminal(project)
        refused, shown = at_a_terminal(project, "n")
        assert refused == 1
        assert f"Ask for the other {PERSONAS - 4} personas anyway? [y/N]" in shown
        assert "An answer that broke " in shown
        assert "Nothing more was asked" in shown
        assert len(witness.answered) == pilot, "the pilot is paid for once"
        agreed, _ = at_a_terminal(project, "y")
        assert agreed == 0
        assert len(witness.answered) > pilot
        (project.folder / "data/synthesis/attempts.jsonl").unlink()
        project.set_params(**{"teacher.pilot.on_low": "continue"})
        assert "teacher.pilot.on_low is continue" in run(project, "synthesis")
        project.set_params(**{"teacher.pilot.on_low": "stop"})
        assert "teacher.pilot.on_low is stop" in last_words(project.stage("synthesis").stderr)
        assert len(set(witness.answered)) == len(witness.answered) == journaled(project)


def at_a_terminal(project: ProjectCopy, answer: str) -> tuple[int, str]:
    """The synthesis stage with somebody at a terminal who types an answer; its status and what is shown."""
    terminal, keyboard = os.openpty()
    os.write(terminal, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "flows.synthesis"], cwd=project.folder, env=project.environment, stdin=keyboard,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip
    os.close(keyboard)
    os.close(terminal)
    return done.returncode, done.stdout


def in_the_background_of_a_terminal(project: ProjectCopy) -> str:
    """What the synthesis stage prints as a job in the background, which ends with status 1.

    One that reads from the terminal is stopped by the system.
    """
    terminal, keyboard = os.openpty()
    job = f"exec < {os.ttyname(keyboard)}; set -m; {sys.executable} -m flows.synthesis & wait $!"
    done = subprocess.run(
        ["bash", "-c", job], cwd=project.folder, env=project.environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300, check=False, start_new_session=True,
    )  # fmt: skip
    os.close(keyboard)
    os.close(terminal)
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize("runner", ["prefect", "dask"])
def test_two_processes_leave_the_same_bytes_as_one(
    finished: tuple[ProjectCopy, Witness], tmp_path: Path, runner: str
) -> None:
    one, witness = finished
    before = len(witness.answered)
    ways = {"teacher.processes": 2, "teacher.task_runner": runner}
    project = project_at(tmp_path / "project", witness.base_url, **ways)
    run(project, *STAGES)
    asked = witness.answered[before:]
    assert len(set(asked)) == len(asked) == journaled(project)
    assert results(project) == results(one)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_spent_budget_stops_the_stage_and_a_higher_one_goes_on(
    finished: tuple[ProjectCopy, Witness], tmp_path: Path, processes: int
) -> None:
    with teacher(tmp_path, "--latency", "0.05") as witness:
        project = project_at(
            tmp_path / "project", witness.base_url, **{"teacher.processes": processes, "teacher.pilot.personas": 0}
        )
        priced(project, input=0.0, output=1000.0)
        project.set_params(**{"teacher.max_cost": 15.0})
        done = project.stage("synthesis")
        assert done.returncode == 1
        sentence = done.stderr.split("\n\n")[-1].strip().splitlines()[0]
        assert sentence.startswith("teacher.max_cost: "), sentence
        assert "of 15.00 US dollars are spent" in sentence
        assert f" of {PERSONAS * SAMPLES} samples are done." in sentence
        assert "Traceback" not in done.stderr
        first = witness.answered
        assert 0 < len(first) == journaled(project)
        assert list((project.folder / "data/synthesis").glob("*")) == []
        project.set_params(**{"teacher.max_cost": 4000.0})
        run(project, *STAGES)
        assert len(set(witness.answered)) == len(witness.answered) == journaled(project)
    whole = metrics(project, "repair")["with_synthesis"]
    assert whole["cost_usd"] == pytest.approx(whole["completion_tokens"] / 1000, abs=1e-5)
    assert without_ids(project) == without_ids(finished[0])


def test_an_unknown_price_is_told_as_unknown(finished: tuple[ProjectCopy, Witness], tmp_path: Path) -> None:
    project, _ = finished
    (tmp_path / "prices.yaml").write_text("listed: test\nmodels: {}\n")
    project.set_params(**{"teacher.prices": str(tmp_path / "prices.yaml")})
    try:
        said = run(project, "synthesis")
        assert metrics(project, "synthesis")["cost_usd"] == "unknown"
        assert "cost unknown, no price for offline-teacher" in said
        assert "cost unknown, as a price is not known" in said
    finally:
        project.set_params(**{"teacher.prices": "null"})
        run(project, "synthesis")


@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupted_run_ends_soon_and_the_next_one_goes_on(
    finished: tuple[ProjectCopy, Witness], tmp_path: Path, processes: int
) -> None:
    """Ctrl-C reaches all processes of the terminal's group."""
    with teacher(tmp_path, "--latency", "0.4") as witness:
        ways = {"teacher.processes": processes, "teacher.pilot.personas": 0, "teacher.concurrency": 4}
        project = project_at(tmp_path / "project", witness.base_url, **ways)
        # A server of its own, which is in the terminal's group too.
        alone = {name: value for name, value in project.environment.items() if name != "PREFECT_API_URL"}
        running = subprocess.Popen(
            [sys.executable, "-m", "flows.synthesis"], cwd=project.folder, env=alone,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            preexec_fn=heed_interrupts,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while len(witness.answered) < 8 and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)
        started = time.monotonic()
        said, _ = running.communicate(timeout=60)
        took = time.monotonic() - started
        assert running.returncode == 130, said[-2000:]
        assert "Stopped. Run the same command again" in said
        assert took < 45, said[-3000:]  # most of it is the end of Prefect's servers, one for each process
        first = witness.answered
        assert 8 <= len(first) < 40, said[-2000:]
        assert journaled(project) == len(first), "what was out came back and was kept"
        assert list((project.folder / "data/synthesis").glob("*")) == []
        run(project, *STAGES)
        assert len(set(witness.answered)) == len(witness.answered) == journaled(project)
    assert without_ids(project) == without_ids(finished[0])


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_sends_no_more_calls_and_the_next_one_loses_none(
    finished: tuple[ProjectCopy, Witness], tmp_path: Path, processes: int
) -> None:
    """SIGKILL of the stage's own process only, as the system does it when memory is short."""
    in_flight = 4
    with teacher(tmp_path, "--latency", "0.4") as witness:
        ways = {"teacher.processes": processes, "teacher.pilot.personas": 0, "teacher.concurrency": in_flight}
        project = project_at(tmp_path / "project", witness.base_url, **ways)
        running = subprocess.Popen(
            [sys.executable, "-m", "flows.synthesis"], cwd=project.folder, env=project.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while len(witness.answered) < 8 and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.05)
        running.kill()
        running.wait(30)
        time.sleep(4)
        sent = len(witness.answered)
        assert 8 <= sent <= 8 + 4 * in_flight
        time.sleep(2)
        assert len(witness.answered) == sent, "nobody continues to ask"
        kept = journaled(project)
        assert kept >= sent - in_flight, "only answers on their way may be lost"
        run(project, *STAGES)
        assert len(witness.answered) - len(set(witness.answered)) == sent - kept
    assert without_ids(project) == without_ids(finished[0])


@pytest.mark.parametrize(("processes", "reached", "pilot"), [(1, "process", 0), (1, "process", 4), (2, "group", 0)])
def test_a_terminated_run_takes_what_is_out_sends_no_more_calls_and_the_next_one_pays_for_none_again(
    finished: tuple[ProjectCopy, Witness], tmp_path: Path, processes: int, reached: str, pilot: int
) -> None:
    """SIGTERM reaches the command alone, as from `docker stop`, or all of its processes, as from systemd."""
    with teacher(tmp_path, "--latency", "0.4") as witness:
        ways = {"teacher.processes": processes, "teacher.pilot.personas": pilot, "teacher.concurrency": 4}
        project = project_at(tmp_path / "project", witness.base_url, **ways)
        running = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "stage", "synthesis"], cwd=project.folder, env=project.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while len(witness.answered) < 8 and time.monotonic() < deadline and running.poll() is None:
            time.sleep(0.05)
        (os.kill if reached == "process" else os.killpg)(running.pid, signal.SIGTERM)
        _, said = running.communicate(timeout=60)
        assert running.returncode == 143, said[-3000:]
        assert said.splitlines()[-1].startswith("Stopped. Run the same command again to resume: "), said[-3000:]
        assert "Traceback" not in said
        first = len(witness.answered)
        assert 8 <= first < 40, said[-2000:]
        assert journaled(project) == first, "what was out came back and was kept"
        assert list((project.folder / "data/synthesis").glob("*")) == []
        time.sleep(2)
        assert len(witness.answered) == first, "nobody continues to ask"
        run(project, *STAGES)
        assert len(set(witness.answered)) == len(witness.answered) == journaled(project)
    assert without_ids(project) == without_ids(finished[0])
