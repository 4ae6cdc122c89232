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

from agentrefine.evaluation.episodes import Episode, EpisodeJournal
from tests.helpers.errors import refused
from tests.helpers.project import ProjectCopy

EPISODE = Episode(
    id="e", benchmark="push", task="push", seed=1, variant="", difficulty="", model="m", model_digest="d", goal="g",
    first_observation="o", steps=[], success=False, progress=0.5, stop="context full",
)  # fmt: skip


def other(number: int) -> Episode:
    return EPISODE.model_copy(update={"id": f"e{number}"})


def test_what_was_written_is_read_back_and_pauses_do_not_count(tmp_path: Path) -> None:
    with EpisodeJournal(tmp_path / "sub" / "journal.jsonl") as journal:
        assert journal.episodes == []
        time.sleep(0.05)
        journal.add(EPISODE)
        journal.add(other(2))
        played = journal.seconds
    time.sleep(0.2)
    with EpisodeJournal(tmp_path / "sub" / "journal.jsonl") as journal:
        assert journal.episodes == [EPISODE, other(2)]
        assert journal.seconds == played >= 0.05
        journal.add(other(3))
        assert played < journal.seconds < played + 0.2


def test_what_a_simulator_failed_in_is_played_again(tmp_path: Path) -> None:
    failed = EPISODE.model_copy(update={"stop": "environment error", "error": "out of memory"})
    again = EPISODE.model_copy(update={"attempt": 1})
    with EpisodeJournal(tmp_path / "journal.jsonl") as journal:
        for episode in (failed, again):
            journal.add(episode)
    with EpisodeJournal(tmp_path / "journal.jsonl") as journal:
        assert journal.finished() == {("e", 1): again}
        journal.add(EPISODE)
        assert journal.finished() == {("e", 0): EPISODE, ("e", 1): again}


@pytest.mark.parametrize("torn", [b'{"seconds": 1, "epis', b"\xff\xfe", b"{}\n", b'{"seconds": 1}'])
def test_a_line_that_was_cut_off_is_dropped_and_written_anew(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    with EpisodeJournal(path) as journal:
        journal.add(EPISODE)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    with EpisodeJournal(path) as journal:
        assert journal.episodes == [EPISODE]
        journal.add(other(2))
    assert path.read_bytes().startswith(whole)
    with EpisodeJournal(path) as journal:
        assert [episode.id for episode in journal.episodes] == ["e", "e2"]


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
    before = [json.loads(line)["episode"]["id"] for line in journal.read_text().splitlines()[:-1]]

    done = project.stage("evaluation", "base")
    assert done.returncode == 0, done.stderr
    assert f"of {24} episodes were played before" in done.stdout + done.stderr
    assert {name: (out / name).read_bytes() for name in expected} == expected
    after = [json.loads(line)["episode"]["id"] for line in journal.read_text().splitlines()]
    assert after[: len(before)] == before
    assert len(after) == len(set(after)) == 24
