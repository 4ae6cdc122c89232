"""On-policy data in the pipeline: the order of the stages, and a run with real tools."""

import json
from pathlib import Path

import pytest
import yaml

from agentrefine.params import Params, parse_params
from flows.pipeline import independent, stages
from tests.helpers.errors import refused
from tests.helpers.project import ProjectCopy


def params(on_policy: dict[str, object], variants: dict[str, str], mix: dict[str, object] | None = None) -> Params:
    values = yaml.safe_load(Path("params.yaml").read_text())
    values |= {"on_policy": on_policy, "mix": mix or {}}
    added = {name: {"train_on": "correct_turns", "data_set": data_set} for name, data_set in variants.items()}
    values["tuning"]["variants"] |= added
    return parse_params(yaml.safe_dump(values), "params.yaml")


def order(given: Params) -> list[str]:
    kinds = ("mix@", "on_policy@", "tuning@")
    return [stage.address for stage in stages(given) if stage.address.startswith(kinds)]


def test_each_round_comes_after_the_model_that_plays_it_and_before_the_model_that_reads_it() -> None:
    given = params(
        {"round1": {"model": "refinement"}, "round2": {"model": "own1"}},
        {"own2": "data/on_policy/round2", "own1": "data/on_policy/round1", "chatty": "data/mix/chat"},
        {"chat": {"data_set": "data/on_policy/round1", "chat": "c.json", "share": 0.2}},
    )
    assert order(given) == [
        "tuning@expert_only", "tuning@refinement", "on_policy@round1",
        "mix@chat", "tuning@own1", "tuning@chatty", "on_policy@round2", "tuning@own2",
    ]  # fmt: skip


def test_stages_of_which_one_reads_another_are_asked_about_one_by_one() -> None:
    """Whether a mix of a mix is up to date is known when the first one has run."""
    mixed = {"chat": "c.json", "share": 0.2}
    given = params(
        {},
        {"b": "data/mix/second"},
        {"first": {"data_set": "data/dataset", **mixed}, "second": {"data_set": "data/mix/first", **mixed}},
    )
    groups = [[stage.address for stage in group] for group in independent(list(stages(given)))]
    assert ["tuning@expert_only", "tuning@refinement"] in groups
    assert [group for group in groups if group[0].startswith("mix")] == [["mix@first"], ["mix@second"]]
    assert groups.index(["mix@second"]) < groups.index(["tuning@b"])


def test_the_default_order_is_not_changed() -> None:
    assert order(params({}, {})) == ["tuning@expert_only", "tuning@refinement"]


def test_stages_that_wait_for_each_other_are_named() -> None:
    given = params({"round1": {"model": "own"}}, {"own": "data/on_policy/round1"})
    with refused("stages_wait_for_each_other", stages=["tuning@own", "on_policy@round1"]):
        order(given)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_model_is_tuned_on_the_mistakes_of_another_one(tmp_path: Path) -> None:
    project = ProjectCopy.make(tmp_path)
    project.set_params(
        **{
            "+on_policy.round1": "{model: refinement, worlds: 60, model_turns: 6}",
            "tuning.variants": "{refinement: {train_on: correct_turns, data_set: data/dataset}, "
            "own: {train_on: correct_turns, data_set: data/on_policy/round1}}",
            "evaluation.models": "[base, own]",
            "evaluation.benchmarks": "[worlds_layouts]",
            "report.baseline": "base",
            "quality_gate.thresholds.on_policy.fault_share.max": 1.0,
        }
    )
    done = project.stage("pipeline")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    counts = json.loads((project.folder / "data/on_policy/round1/metrics.json").read_text())
    assert counts["games"] >= 20
    assert counts["corrections"] >= counts["games"]
    card = json.loads((project.folder / "models/own/card.json").read_text())
    assert card["data_set"] == "data/on_policy/round1"
    assert not project.changed_stages()
    report = (project.folder / "reports/report.md").read_text()
    assert "| on policy, round1 | 60 games played |" in report
    before = (project.folder / "data/on_policy/round1/train.jsonl").read_bytes()
    again = project.stage("on_policy", "round1")
    assert again.returncode == 0, again.stderr[-3000:]
    assert (project.folder / "data/on_policy/round1/train.jsonl").read_bytes() == before
    assert not project.changed_stages()
    project.set_params(**{"+quality_gate.thresholds.on_policy.games.min": 1000})
    refused_by_gate = project.stage("on_policy", "round1")
    assert refused_by_gate.returncode == 1
    assert "the quality gate refused the games of refinement" in refused_by_gate.stderr
    assert not (project.folder / "data/on_policy/round1/train.jsonl").exists()
