"""The journal of paid answers: what is asked again, what is not, and who may share the file."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from agentrefine.llm.completion import Answer, Usage
from agentrefine.llm.journal import Journal, Question
from agentrefine.synthesis.client import simulated_name
from tests.helpers.asking import in_processes
from tests.helpers.errors import refused
from tests.helpers.scripted_teacher import PARAMS

ANSWER = Answer("said", Usage(prompt_tokens=1, completion_tokens=1), "stop")
QUESTION = Question(
    endpoint="http://a/v1",
    model="m",
    messages=[{"role": "user", "content": "hi"}],
    temperature=1.0,
    kind="script",
    structured_output="auto",
    sample=0,
)


def keep(journal: Journal, key: str, answer: Answer = ANSWER, max_tokens: int = 9) -> str:
    return asyncio.run(journal.keep(key, max_tokens, answer)).text


def test_the_key_covers_all_that_can_change_an_answer():
    others = [
        QUESTION._replace(endpoint="http://b/v1"),
        QUESTION._replace(model="n"),
        QUESTION._replace(messages=[{"role": "user", "content": "hi "}]),
        QUESTION._replace(messages=[{"role": "system", "content": "hi"}]),
        QUESTION._replace(temperature=0.5),
        QUESTION._replace(kind="trajectory"),
        QUESTION._replace(structured_output="text"),
        QUESTION._replace(sample=1),
        QUESTION._replace(extra_body={"reasoning_effort": "low"}),
    ]
    assert len({question.key() for question in [QUESTION, *others]}) == 1 + len(QUESTION._fields) + 1
    assert QUESTION._replace(messages=[{"content": "hi", "role": "user"}]).key() == QUESTION.key()


def test_the_simulated_teachers_name_covers_what_changes_its_answers_and_not_how_they_travel():
    def named(version: str = "1", **changes: object) -> str:
        offline = PARAMS.teacher.offline.model_copy(update=changes)
        return simulated_name(PARAMS.teacher.model_copy(update={"offline": offline}), version)

    changed = [named("2"), named(script_faults=0.9), named(trajectory_faults=0.9), named(mistakes=[2, 2])]
    assert len({named(), *changed}) == 5
    assert named(wire_faults=0.9, wire_fault_kinds=["reset"]) == named()


@pytest.mark.parametrize(
    ("usage", "finish_reason"),
    [
        (Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3, batch=True), "stop"),
        (Usage(prompt_tokens=0, completion_tokens=0), "content_filter"),
    ],
)
def test_an_answer_comes_back_as_it_was_kept(tmp_path: Path, usage: Usage, finish_reason: str) -> None:
    answer = Answer("text with \x00 and \u2028", usage, finish_reason)
    with Journal(tmp_path / "answers.sqlite") as journal:
        keep(journal, "key", answer)
    with Journal(tmp_path / "answers.sqlite") as journal:
        kept = journal.find("key", 9)
    assert kept is not None
    assert kept == answer._replace(id=kept.id)


def test_a_journal_of_another_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    with sqlite3.connect(path) as old:
        old.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, text TEXT)")
        old.execute("INSERT INTO answers VALUES ('key', 'paid for')")
    old.close()
    with refused("journal_version", file=path, found=0):
        Journal(path)
    with sqlite3.connect(path) as old:
        assert old.execute("SELECT text FROM answers").fetchall() == [("paid for",)]
    old.close()


def write_many(process: int, path: Path) -> None:
    async def work() -> None:
        answer = ANSWER._replace(text=f"by {process}")
        with Journal(path) as journal:
            for number in range(0, 200, 20):
                await asyncio.gather(*(journal.keep(f"key {number + i}", 9, answer) for i in range(20)))

    asyncio.run(work())


def test_several_processes_share_a_journal_and_the_first_answer_stays(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    in_processes(3, write_many, path)
    with Journal(path) as journal:
        kept = [journal.find(f"key {number}", 9) for number in range(200)]
        assert all(kept)
        again = keep(journal, "key 0", ANSWER._replace(text="late"))
    assert kept[0] is not None
    assert again == kept[0].text


def test_a_file_that_is_no_journal_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"something else entirely, long enough to be looked at" * 100)
    with refused("journal_unusable", file=path):
        Journal(path)
    (tmp_path / "folder").write_text("")
    with refused("journal_unusable", file=tmp_path / "folder" / "answers.sqlite"):
        Journal(tmp_path / "folder" / "answers.sqlite")


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with Journal(tmp_path / "answers.sqlite") as journal:
        journal._writer.execute("PRAGMA max_page_count = 5")
        with refused("disk_full", file=tmp_path / "answers.sqlite"):
            keep(journal, "key", ANSWER._replace(text="x" * 100_000))
        assert journal.find("key", 9) is None
        assert keep(journal, "key", ANSWER._replace(text="small")) == "small"


@pytest.mark.parametrize(("version", "lacks"), [(2, ["seconds", "estimated"]), (3, ["seconds"])])
def test_a_journal_of_an_older_version_is_still_read(tmp_path, version, lacks):
    path = tmp_path / "answers.sqlite"
    with Journal(path) as journal:
        keep(journal, "known")
    with sqlite3.connect(path) as old:
        for column in lacks:
            old.execute(f"ALTER TABLE answers DROP COLUMN {column}")
        old.execute(f"PRAGMA user_version = {version}")
    with Journal(path) as journal:
        assert journal.find("known", 9)._replace(id="") == ANSWER
        estimated = ANSWER._replace(usage=ANSWER.usage.model_copy(update={"estimated": True}), seconds=1.5)
        keep(journal, "new", estimated)
    with Journal(path) as journal:
        assert journal.find("new", 9)._replace(id="") == estimated
