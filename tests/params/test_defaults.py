"""Defaults: every key has one, and a comment; what is left out of params.yaml has it; DVC reads all of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agentrefine.files import short_hash
from agentrefine.params import DVC_KEYS, RENAMED, Params, is_key, load_params, parse_params
from agentrefine.params.base import Section, commented
from tasks.params import RESOLVED, write_resolved
from tests.helpers.errors import refused
from tests.helpers.paths import ROOT

DIGEST = "4af3f4bdd930"
"""Of all default values: a default that changes changes what every user makes."""
SHORTEST = {
    "personas": {"path": "data/personas.jsonl"},
    "mix": {},
    "on_policy": {},
    "tuning": {
        "launcher": "python",
        "variants": {
            "expert_only": {"train_on": "without_refinement_data", "data_set": "data/dataset"},
            "refinement": {"train_on": "correct_turns", "data_set": "data/dataset"},
        },
    },
    "evaluation": {"references": ["chance"], "models": ["base", "expert_only", "refinement"], "endpoints": {}},
}


def loaded(values: object) -> Params:
    return parse_params(yaml.safe_dump(values), "params.yaml")


def test_the_defaults_are_the_values_that_results_are_published_for() -> None:
    assert short_hash(json.dumps(Params().model_dump(mode="json"), sort_keys=True)) == DIGEST


@pytest.mark.parametrize("section", ["report", "quality_gate", "evaluation"])
def test_an_old_name_of_a_benchmark_is_answered_with_the_new_one(section: str) -> None:
    old = {
        "report": {"champion_benchmark": "worlds_wording"},
        "quality_gate": {"overlap_benchmarks": ["worlds_wording"]},
        "evaluation": {**SHORTEST["evaluation"], "benchmarks": ["worlds_wording", "worlds_layouts"]},
    }
    with refused("old_name", name="worlds_wording", new="worlds_perturbed"):
        loaded({**SHORTEST, section: old[section]})


def test_the_resolved_file_does_not_depend_on_the_machines_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**SHORTEST, "base_model": {"path": "~/models/x"}}))
    write_resolved()
    assert yaml.safe_load(RESOLVED.read_text())["base_model"]["path"] == "~/models/x"
    assert "~" not in load_params().base_model.path


def test_the_committed_file_holds_no_value_but_defaults_and_is_resolved() -> None:
    committed = load_params(ROOT / "params.yaml")
    assert committed == Params()
    assert yaml.safe_load((ROOT / RESOLVED).read_text()) == committed.model_dump(mode="json")


def test_all_but_what_dvc_reads_may_be_left_out() -> None:
    assert loaded(SHORTEST) == Params()
    used = set(re.findall(r"\$\{([a-z_]+(?:\.[a-z_]+)*)\}", (ROOT / "dvc.yaml").read_text()))
    assert {name for name in used if is_key(name)} == set(DVC_KEYS)


@pytest.mark.parametrize("name", DVC_KEYS)
def test_a_missing_key_that_dvc_reads_is_named_in_one_sentence(name: str) -> None:
    values = json.loads(json.dumps(SHORTEST))
    *sections, key = name.split(".")
    section = values
    for part in sections:
        section = section[part]
    del section[key]
    with refused("missing_key", file="params.yaml", key=name):
        loaded(values)


def test_a_section_that_is_given_in_part_keeps_its_own_defaults() -> None:
    given = {"quality_gate": {"thresholds": {"trajectory": {"tokens": {"max": 8192.0}}}}, "teacher": {"script": {}}}
    params = loaded(SHORTEST | given)
    tokens, ours = params.quality_gate.thresholds.trajectory.tokens, Params().quality_gate.thresholds.trajectory.tokens
    assert tokens == ours.model_copy(update={"max": 8192.0})
    assert params.teacher == Params().teacher
    open_ended = {"quality_gate": {"thresholds": {"trajectory": {"tokens": {"max": None}}}}}
    assert loaded(SHORTEST | open_ended).quality_gate.thresholds.trajectory.tokens.max is None


def test_an_old_name_is_answered_with_the_new_one_where_the_old_one_stood_and_nowhere_else() -> None:
    variants = {"v1.old": {"loss": "refinement", "data_set": "data/dataset"}}
    with refused("old_name", file="params.yaml", key="tuning.variants.v1.old.loss", new="train_on"):
        loaded(SHORTEST | {"tuning": {"launcher": "python", "variants": variants}})
    with refused("unknown_key", file="params.yaml", key="tuning.loss"):
        loaded(SHORTEST | {"tuning": {**SHORTEST["tuning"], "loss": "refinement"}})
    with refused("unknown_key", key="loss"):
        loaded(SHORTEST | {"loss": "refinement"})
    with refused("old_name", key="refinement", new="repair"):
        loaded(SHORTEST | {"refinement": {"call_budget": 4}})
    with refused("old_name", key="teacher.refinement", new="teacher.repair"):
        loaded(SHORTEST | {"teacher": {"refinement": {"temperature": 0.5}}})
    with refused("old_name", name="refinement", new="correct_turns"):
        named = {"refinement": {"train_on": "refinement", "data_set": "data/dataset"}}
        loaded(SHORTEST | {"tuning": {"launcher": "python", "variants": named}})
    assert not set(RENAMED) & set(RENAMED.values())


def test_all_parameters_are_printed_with_comments_and_read_back_as_they_are() -> None:
    changed = loaded(SHORTEST | {"seed": 11, "evaluation": {**SHORTEST["evaluation"], "max_steps": 9}})
    printed = commented(changed)
    assert parse_params(printed, "printed") == changed
    keys = dict(lines(printed))
    assert set(fields(Params)) <= set(keys)
    assert [name for name in fields(Params) if not keys[name]] == []


def lines(text: str) -> Iterator[tuple[str, str]]:
    """Each dotted key of a printed file with its comment."""
    place: list[str] = []
    for line in text.splitlines():
        if found := re.match(r"( *)([\w.-]+):(?:.*?  # (.*))?", line):
            place = [*place[: len(found[1]) // 2], found[2]]
            yield ".".join(place), found[3] or ""


def fields(section: type[Section], place: str = "") -> Iterator[str]:
    """Each dotted key that has a comment of its own."""
    for name in section.model_fields:
        part = section.parts().get(name)
        yield f"{place}{name}"
        if part is not None and any(inner.description for inner in part.model_fields.values()):
            yield from fields(part, f"{place}{name}.")


def test_the_files_of_presets_hold_only_known_keys() -> None:
    for file in Path(ROOT / "presets").glob("*.yaml"):
        for section, values in yaml.safe_load(file.read_text()).items():
            assert is_key(section)
            if section in Params.parts():  # else its keys are names
                assert all(is_key(f"{section}.{key}") for key in values)
