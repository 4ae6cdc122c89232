"""The personas that ship with the project, and what the loader does with other people's files."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from agentrefine.game.personas import load_personas
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT, SHARED

OURS = ROOT / "data" / "personas.jsonl"
PERSONA_HUB = SHARED / "data" / "persona_hub_4000.jsonl"


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_our_personas_are_many_and_distinct():
    personas = list(load_personas(OURS))
    assert len(personas) >= 480
    assert len(personas) == len(OURS.read_text(encoding="utf-8").splitlines()), "a line is there twice"
    assert len({persona.id for persona in personas}) == len(personas)


def test_no_two_of_our_personas_are_nearly_the_same():
    bags = [(persona.text, words(persona.text)) for persona in load_personas(OURS)]
    close = [(a, b) for (a, x), (b, y) in combinations(bags, 2) if len(x & y) / len(x | y) > 0.5]
    assert close == []


def test_our_personas_begin_in_many_ways_and_speak_many_languages():
    texts = [persona.text for persona in load_personas(OURS)]
    assert len({" ".join(text.split()[:3]).lower() for text in texts}) > 0.8 * len(texts)
    assert sum(not text.startswith(("A ", "An ")) for text in texts) >= 20
    assert all(15 <= len(text) <= 160 for text in texts)


def test_a_limit_takes_the_first_personas():
    assert [p.text for p in load_personas(OURS, limit=5)] == [p.text for p in load_personas(OURS)][:5]


@pytest.mark.parametrize(
    "broken",
    ["{not json", '"a plain string"', "[]", "{}", '{"persona": ""}', '{"persona": "  "}', '{"persona": 7}', "null"],
)
def test_a_broken_line_is_refused_by_its_number(tmp_path: Path, broken: str):
    path = tmp_path / "personas.jsonl"
    path.write_text('{"persona": "A cook"}\n{"persona": "A miner"}\n' + broken + "\n", encoding="utf-8")
    where = {"file": path, "line": 3} if broken == "{not json" else {"place": f"{path}, line 3"}
    with refused("not_json" if broken == "{not json" else "bad_record", **where):
        list(load_personas(path))


def test_bytes_that_are_not_utf8_are_refused_by_their_line(tmp_path: Path):
    path = tmp_path / "personas.jsonl"
    path.write_bytes(b'{"persona": "A cook"}\n{"persona": "caf\xe9"}\n')
    with refused("not_utf8", file=path, line=2):
        list(load_personas(path))


def test_a_missing_file_is_refused_by_its_name(tmp_path: Path):
    with refused("file_missing", file=tmp_path / "nowhere.jsonl"):
        list(load_personas(tmp_path / "nowhere.jsonl"))


def test_the_same_sentence_counts_once_and_other_keys_are_ignored(tmp_path: Path):
    path = tmp_path / "personas.jsonl"
    lines = [{"persona": "A  cook"}, {"persona": "A cook", "source": "hub"}, {"id": 3, "persona": "A miner"}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [persona.text for persona in load_personas(path)] == ["A cook", "A miner"]


LINES = ['{"persona": "A cook"}', '{"persona": "A miner"}']


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + "\n".join(LINES),
        "\n".join(LINES) + "\n\n",
        LINES[0] + "\n  \n" + LINES[1],
        "\r\n".join(LINES) + "\r\n",
        f"[{', '.join(LINES)}]",
        f"\ufeff [\n{','.join(LINES)}]\n",
    ],
    ids=["byte order mark", "blank last line", "blank line", "line ends of Windows", "list", "list with a mark"],
)
def test_personas_are_read_whatever_editor_wrote_the_file(tmp_path: Path, text: str):
    (tmp_path / "personas.jsonl").write_bytes(text.encode())
    assert [persona.text for persona in load_personas(tmp_path / "personas.jsonl")] == ["A cook", "A miner"]


@pytest.mark.skipif(not PERSONA_HUB.is_file(), reason="the Persona Hub file is not beside the repository")
def test_a_persona_hub_file_works_as_it_is():
    hub = list(load_personas(PERSONA_HUB))
    assert len(hub) > 3900
    assert not {p.id for p in hub} & {p.id for p in load_personas(OURS)}, "ours are written by us"
