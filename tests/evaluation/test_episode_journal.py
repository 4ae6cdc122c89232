"""A killed evaluation resumes after its last finished episode and ends with the same numbers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentrefine.errors import UserError
from agentrefine.evaluation.episodes import Episode, EpisodeJournal
from agentrefine.evaluation.evaluate import Rules, play_benchmark
from agentrefine.evaluation.times import EpisodeTimes, TurnTime
from agentrefine.params import load_params
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT
from tests.helpers.playing import PushBenchmark, ScriptedPolicy, gold_policy
from tests.helpers.project import ProjectCopy

EPISODE = Episode(
    id="e", benchmark="push", task="push", seed=1, variant="", difficulty="", model="m", model_digest="d", goal="g",
    first_observation="o", steps=[], success=False, progress=0.5, stop="context full",
)  # fmt: skip
TIMES = EpisodeTimes(
    benchmark="push", id="e", attempt=0, began=1790000000.125, before=0.01, turns=[TurnTime(0.75, 0.25)], after=0.0
)


def other(number: int) -> Episode:
    return EPISODE.model_copy(update={"id": f"e{number}"})


def test_what_was_written_is_read_back_and_pauses_do_not_count(tmp_path: Path) -> None:
    with EpisodeJournal(tmp_path / "sub" / "journal.jsonl") as journal:
        assert journal.episodes == []
        time.sleep(0.05)
        journal.add(EPISODE, TIMES)
        journal.add(other(2), TIMES)
        played = journal.seconds
    time.sleep(0.2)
    with EpisodeJournal(tmp_path / "sub" / "journal.jsonl") as journal:
        assert journal.episodes == [EPISODE, other(2)]
        assert journal.seconds == played >= 0.05
        journal.add(other(3), TIMES)
        assert played < journal.seconds < played + 0.2


def test_what_a_simulator_failed_in_is_played_again(tmp_path: Path) -> None:
    failed = EPISODE.model_copy(update={"stop": "environment error", "error": "out of memory"})
    again = EPISODE.model_copy(update={"attempt": 1})
    with EpisodeJournal(tmp_path / "journal.jsonl") as journal:
        for episode in (failed, again):
            journal.add(episode, TIMES)
    with EpisodeJournal(tmp_path / "journal.jsonl") as journal:
        assert journal.finished() == {("e", 1): again}
        journal.add(EPISODE, TIMES)
        assert journal.finished() == {("e", 0): EPISODE, ("e", 1): again}


@pytest.mark.parametrize("torn", [b'{"seconds": 1, "epis', b"\xff\xfe", b"{}\n", b'{"seconds": 1}'])
def test_a_line_that_was_cut_off_is_dropped_and_written_anew(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    with EpisodeJournal(path) as journal:
        journal.add(EPISODE, TIMES)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with EpisodeJournal(path) as journal:
        assert journal.episodes == [EPISODE]
        journal.add(other(2), TIMES)
    assert path.read_bytes().startswith(whole)
    with EpisodeJournal(path) as journal:
        assert [episode.id for episode in journal.episodes] == ["e", "e2"]


def test_a_journal_of_before_the_times_is_read_and_its_episodes_have_none(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"seconds": 1.5, "episode": EPISODE.model_dump(mode="json")}) + "\n")
    with EpisodeJournal(path) as journal:
        assert (journal.episodes, journal.seconds, journal.times) == ([EPISODE], 1.5, {})
        journal.add(other(2), TIMES)
    with EpisodeJournal(path) as journal:
        assert (len(journal.episodes), journal.times) == (2, {("e2", 0): TIMES})


class EndingPolicy(ScriptedPolicy):
    """Its third episode never gets a reply, as if the evaluation were stopped there."""

    def act(self, dialogues):
        if dialogues[0].key == "push.2":
            raise UserError("endpoint_refused", "no more replies")
        return super().act(dialogues)


def test_finished_episodes_keep_their_times_through_an_interruption(tmp_path: Path) -> None:
    benchmark, rules = PushBenchmark(), Rules.of(load_params(ROOT / "params.yaml").evaluation, {})
    specs = benchmark.episodes(4, 0)

    def resume(policy: ScriptedPolicy) -> dict[tuple[str, int], EpisodeTimes]:
        with EpisodeJournal(tmp_path / "journal.jsonl") as journal:
            before = dict(journal.times)
            list(play_benchmark(benchmark, policy, specs, journal, rules, at_once=1, digest="d"))
            assert before.items() <= journal.times.items()
            return journal.times

    scripts = gold_policy(benchmark, specs).scripts
    with refused("endpoint_refused"):
        resume(EndingPolicy(scripts))
    with EpisodeJournal(tmp_path / "journal.jsonl") as journal:
        interrupted = journal.times
    assert [episode for episode, _ in interrupted] == ["push.0", "push.1"]
    times = resume(ScriptedPolicy(scripts))
    assert interrupted.items() < times.items()
    assert {episode: len(found.turns) for (episode, _), found in times.items()} == {
        spec.id: spec.seed for spec in specs
    }
    began = [found.began for found in times.values()]
    assert began == sorted(began)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused("not_writable", file=tmp_path / "file" / "journal.jsonl"):
        EpisodeJournal(tmp_path / "file" / "journal.jsonl")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_evaluation_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    project = ProjectCopy.make(
        tmp_path, **{"evaluation.benchmarks": ["worlds_layouts"], "evaluation.episodes": 24, "evaluation.batch_size": 2,
                     "evaluation.max_steps": 8}
    )  # fmt: skip
    assert project.stage("base_model").returncode == 0
    done = project.stage("evaluation", "base")
    assert done.returncode == 0, done.stderr
    out, journals = project.folder / "data/evaluation/base", project.folder / "data/journal/episodes"
    expected = {name: (out / name).read_bytes() for name in ("episodes.jsonl", "metrics.json")}
    for folder in (out, journals):
        shutil.rmtree(folder)

    command = [sys.executable, "-m", "flows.evaluation", "base"]
    process = subprocess.Popen(command, cwd=project.folder, env=project.environment, start_new_session=True)
    while process.poll() is None and not sum(len(p.read_bytes().splitlines()) for p in journals.glob("*.jsonl")) > 3:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    [journal] = journals.glob("*.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()[:-1]]
    before = [line["episode"]["id"] for line in lines]

    done = project.stage("evaluation", "base")
    assert done.returncode == 0, done.stderr
    assert f"of {24} episodes were played before" in done.stdout + done.stderr
    assert {name: (out / name).read_bytes() for name in expected} == expected
    after = [json.loads(line)["episode"]["id"] for line in journal.read_text().splitlines()]
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 24
    times = [json.loads(line) for line in (out / "turn_times.jsonl").read_text().splitlines()]
    assert times[: len(before)] == [line["times"] for line in lines]
    assert [line["id"] for line in times] == after
