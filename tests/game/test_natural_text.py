"""Every text of ours is plain English: sentences begin with a capital letter, and signs follow their word."""

import re
from importlib import resources

import pytest
import yaml

import agentrefine
from agentrefine.game.conversation import instructions
from agentrefine.synthesis.prompts import script_messages, trajectory_messages
from tests.helpers.simulated_games import BAKER, games

ROOT = resources.files(agentrefine)
PROMPTS = sorted(str(file.relative_to(ROOT)) for file in ROOT.rglob("*.md"))
DATA = sorted(
    str(file.relative_to(ROOT))
    for folder in ("worlds", "benchmarks", "simulation")
    for file in (ROOT / folder).rglob("*.yaml")
)
LONELY_SIGN = re.compile(r"\w [.,;:?!](?:\s|$)")
SMALL_START = re.compile(r"[a-z][.?!] [a-z]")


def strings(value):
    """All strings of a YAML value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(key)
            yield from strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_natural(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not LONELY_SIGN.search(text)
    assert not SMALL_START.search(text)


@pytest.mark.parametrize("name", DATA)
def test_texts_in_data_files_are_natural(name):
    for text in strings(yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))):
        assert not LONELY_SIGN.search(text), text
        assert not SMALL_START.search(text), text


def test_games_and_scripts_of_the_simulated_teacher_are_natural():
    for script, turns in games(52):
        sentences = [script.goal, *script.completion_conditions]
        sentences += [spec.description for spec in script.available_actions.values()]
        sentences += [turn.get("observation") or turn["thought"] for turn in turns]
        sentences += [turn["thought"] for turn in turns]
        for text in sentences:
            assert not LONELY_SIGN.search(text), text
            assert not re.search(r"(?:^|[.?!] )[a-z]", text), text
            assert re.search(r"[.?!]$", text), text
            assert not re.search(r"\b(?:i|a [aeiou]\w*)\b", text), text


def test_prompts_of_the_teacher_and_the_agent_are_natural_when_filled():
    script, _ = next(games(1))
    actions = {template: spec.description for template, spec in script.available_actions.items()}
    filled = [instructions(actions), script_messages(BAKER)[0]["content"]]
    filled.append(trajectory_messages(BAKER, script)[0]["content"])
    for text in filled:
        assert not LONELY_SIGN.search(text), LONELY_SIGN.search(text)
