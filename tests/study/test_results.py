"""A study: what is kept of a run, results that add up, and a page that says what the figures say."""

import json
from pathlib import Path

import pytest

from agentrefine.evaluation.episodes import EpisodeStep
from agentrefine.files import read_jsonl, write_json, write_jsonl
from agentrefine.params import Params, load_params
from agentrefine.report.inputs import Project
from agentrefine.study.page import write_study
from agentrefine.study.results import (
    CARD,
    OUTCOMES,
    EpisodeOutcome,
    ResultCard,
    check_joins,
    keep_results,
    outcome_of,
    read_results,
    rules_of,
    variants_of,
)
from agentrefine.tuning.cards import TunedCard
from agentrefine.tuning.train import PARAMS_WITHOUT_EFFECT
from tests.helpers.errors import refused
from tests.helpers.results_tree import TRAIN_ON, episodes, params_for, write_model, write_results

PARAMS = load_params(Path("params.yaml"))


def step(action: str, *, valid: bool) -> EpisodeStep:
    return EpisodeStep(
        thought="t", action=action, reply=f"Thought: t\nAction: {action}", observation="o", valid=valid,
        format_error=False, progress=0.5, prompt_tokens=1, completion_tokens=1, turns_cut=0,
    )  # fmt: skip


def result(folder: Path, variant: str, seed: int | None, solved: int, of: int = 20, **changes: object) -> None:
    tuned = {
        "base_digest": "b", "train_on": "correct_turns", "data_set_sha256": {"train.jsonl": "d"}, "games": 50,
        "data_set": f"data/on_policy/round1-{seed}" if variant.startswith("own") else "data/dataset", "passes": 2.0,
        "steps": 10, "tokens": 1000, "trained_tokens": 200, "tuning": {"tokens": 1000}, "validation_loss": 0.2,
    }  # fmt: skip
    made = {"rules": {"seed": 7, "max_steps": 20}, "code": "c", "machine": "m"}
    values = {"variant": variant, "seed": seed, **(tuned if seed is not None else {}), **made, **changes}
    card = ResultCard.model_validate(values)
    outcomes = [
        EpisodeOutcome(
            benchmark="worlds_layouts", cluster=f"w{i}", solved=int(i < solved), progress=float(i < solved), steps=4,
            valid=2, format_errors=0, stuck=int(i >= solved), errors=2, recovered=int(i < solved),
            recovered_soon=int(i < solved), repeated=int(i >= solved),
            recovered_by_kind={"place_error": (2, int(i < solved))},
        )
        for i in range(of)
    ]  # fmt: skip
    write_json(folder / card.name / CARD, card.model_dump())
    write_jsonl(folder / card.name / OUTCOMES, outcomes)


def study(folder: Path, seeds: int, refined: int = 16) -> Path:
    result(folder, "chance", None, 4)
    for seed in range(seeds):
        result(folder, "expert_only", seed, 8 + seed % 2)
        result(folder, "refinement", seed, refined + seed % 2)
    return folder


def test_an_episode_is_counted_as_the_metrics_count_it():
    steps = [step("open box", valid=False), step("open box", valid=False), step("look", valid=True)]
    last = step("open box", valid=False)
    found = outcome_of(episodes("refinement", 0)[0].model_copy(update={"steps": [*steps, last], "progress": 0.5}))
    assert (found.steps, found.valid, found.errors, found.recovered, found.stuck) == (4, 1, 2, 1, 1)
    assert (found.recovered_soon, found.repeated, found.recovered_by_kind) == (2, 1, {"unknown": (2, 1)})


def finished_run(root: Path) -> Params:
    """A run of two variants, tuned with seed 7."""
    write_results(root)
    figures = json.loads((root / "reports/tuning/refinement/metrics.json").read_text())
    figures["rendering"] = {"samples": 225, "tokens": 200_000}
    for model, train_on in TRAIN_ON.items():
        folder = write_model(root / "models" / model, model.encode())
        origin = {"base": "models/base", "base_digest": "b", "base_quantisation": None, "data_set": "data/dataset"}
        card = TunedCard(
            **figures | origin | {"train_on": train_on}, data_set_sha256={}, seed=7, processes=1, params={"epochs": 2}
        )
        write_json(folder / "card.json", card.model_dump(exclude={"trained_token_share"}))
    params = params_for(root)
    variants = {name: v.model_copy(update={"seed": 7}) for name, v in params.tuning.variants.items()}
    return params.model_copy(update={"tuning": params.tuning.model_copy(update={"variants": variants})})


def test_a_run_leaves_a_card_and_outcomes_for_every_player(tmp_path: Path):
    params = finished_run(tmp_path)
    kept = keep_results(params, Project(tmp_path), tmp_path / "kept", "a processor")
    assert kept == ["chance", "base", "expert_only-7", "refinement-7"]
    found = {result.card.variant: result for result in read_results(tmp_path / "kept")}
    card = found["refinement"].card
    assert (card.train_on, card.seed, card.tokens, card.base_digest) == ("correct_turns", 7, 400_000, "b")
    assert (card.games, card.passes) == (225, 2.0)
    assert found["base"].card.seed is None
    played = list(Project(tmp_path).episodes("refinement"))
    assert found["refinement"].outcomes == [outcome_of(episode) for episode in played]
    first = {file: file.read_bytes() for file in (tmp_path / "kept").rglob("*.json*")}
    assert len(first) == 8
    keep_results(params, Project(tmp_path), tmp_path / "kept", "a processor")
    assert {file: file.read_bytes() for file in (tmp_path / "kept").rglob("*.json*")} == first


def test_a_model_without_a_card_names_the_stage_that_writes_it(tmp_path: Path):
    params = finished_run(tmp_path)
    (tmp_path / "models/refinement/card.json").unlink()
    with refused("stage_not_run", stage="tuning@refinement"):
        keep_results(params, Project(tmp_path), tmp_path / "kept", "a processor")


def test_results_of_two_machines_add_up(tmp_path: Path):
    study(tmp_path / "one", 2)
    for seed in (2, 3):
        result(tmp_path / "two", "expert_only", seed, 9)
        result(tmp_path / "two", "refinement", seed, 17)
    for folder in (tmp_path / "two").iterdir():
        folder.rename(tmp_path / "one" / folder.name)
    variants = variants_of(read_results(tmp_path / "one"))
    assert [found.card.seed for found in variants["refinement"]] == [0, 1, 2, 3]
    write_study(tmp_path / "one", tmp_path / "out", "worlds_layouts")
    values = json.loads((tmp_path / "out/study.json").read_text())
    rate = values["rates"]["worlds_layouts"]["refinement"]["success"]
    assert (rate["value"], rate["n"]) == ((16 + 17 * 3) / 80, 80)


def test_a_difference_is_claimed_from_three_seeds_on_and_the_title_says_it(tmp_path: Path):
    pages = {seeds: write_study(study(tmp_path / str(seeds), seeds), tmp_path, "worlds_layouts") for seeds in (2, 3)}
    assert pages[3].startswith(
        "# Does refinement tuning beat plain expert tuning? Yes, on worlds layouts: refinement 82% against 42%, +40 [+"
    )
    assert "Not known yet; on worlds layouts" in pages[2].splitlines()[0]
    answers = json.loads((tmp_path / "study.json").read_text())["answers"]
    assert {a["measure"]: a["verdict"] for a in answers} == {
        "success": "higher", "recovery": "higher", "stuck": "lower"
    }  # fmt: skip
    assert "| chance | - | 20 [" in pages[3]
    assert "| refinement | 41 [" in pages[3]
    assert pages[3].count("(120) |") == 2
    assert (tmp_path / "success.png").read_bytes().startswith(b"\x89PNG")


def test_results_without_an_episode_are_one_sentence(tmp_path: Path):
    result(tmp_path / "r", "refinement", 0, 0, of=0)
    with refused("no_results", file=tmp_path / "r"):
        write_study(tmp_path / "r", tmp_path, "worlds_layouts")


def test_what_no_tuned_model_solves_takes_one_line(tmp_path: Path):
    study(tmp_path / "r", 3)
    for folder in (tmp_path / "r").iterdir():
        outcomes = list(read_jsonl(folder / OUTCOMES, EpisodeOutcome))
        hard = [o.model_copy(update={"benchmark": "pddl", "solved": int(folder.name == "chance")}) for o in outcomes]
        write_jsonl(folder / OUTCOMES, [*outcomes, *hard])
    page = write_study(tmp_path / "r", tmp_path, "worlds_layouts")
    assert "No tuned model solves an episode of pddl" in page
    assert page.count("pddl") == 1
    values = json.loads((tmp_path / "study.json").read_text())
    assert values["rates"]["pddl"]["chance"]["success"]["value"] == 1
    assert {answer["benchmark"] for answer in values["answers"]} == {"worlds_layouts"}


def test_what_does_not_differ_is_not_claimed(tmp_path: Path):
    page = write_study(study(tmp_path / "r", 3, refined=8), tmp_path, "worlds_layouts")
    assert "where too few episodes differ: refinement 42% against 42%, +0 [" in page.splitlines()[0]


def test_the_page_has_the_same_bytes_for_the_same_results(tmp_path: Path):
    for out in ("a", "b"):
        write_study(study(tmp_path / "r", 3), tmp_path / out, "worlds_layouts")
    names = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert names == ["recovery.png", "study.json", "study.md", "success.png"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"rules": {"seed": 8, "max_steps": 20}}, ["seed"]),
        ({"tuning": {"tokens": 9000}}, ["tokens"]),
        ({"train_on": "with_erroneous_loss"}, ["train_on"]),
        ({"data_set": "data/mix/chat"}, ["data_set"]),
        ({"data_set_sha256": {"train.jsonl": "other"}}, ["train.jsonl"]),
    ],
)
def test_results_that_cannot_be_compared_are_refused_by_name(tmp_path: Path, changes: dict, keys: list[str]):
    study(tmp_path, 2)
    result(tmp_path, "refinement", 5, 10, **changes)
    with refused("not_comparable", keys=keys, b="refinement-5"):
        read_results(tmp_path)


def test_own_games_differ_by_seed_and_other_bases_and_versions_are_said(tmp_path: Path):
    study(tmp_path / "r", 3)
    for seed in range(3):
        changes = {"data_set_sha256": {"train.jsonl": f"of {seed}"}, "code": f"c{seed}", "base_digest": f"b{seed}"}
        result(tmp_path / "r", "own", seed, 10, **changes)
    page = write_study(tmp_path / "r", tmp_path, "worlds_layouts")
    assert "tuned from 4 different bases" in page
    assert "4 versions" in page
    assert "| own | correct turns | data/on_policy/round1 | 50 | 2.0 |" in page


def test_a_study_does_not_begin_what_its_results_could_not_be_compared_with(tmp_path: Path):
    params = finished_run(tmp_path)
    check_joins(params, tmp_path / "kept")
    tuning = json.loads(params.tuning.model_dump_json(exclude=PARAMS_WITHOUT_EFFECT))
    result(tmp_path / "kept", "refinement", 3, 10, rules=rules_of(params), tuning=tuning)
    check_joins(params, tmp_path / "kept")
    longer = params.model_copy(update={"tuning": params.tuning.model_copy(update={"tokens": 99})})
    with refused("not_comparable", keys=["tokens"], a="refinement-3"):
        check_joins(longer, tmp_path / "kept")
    fewer = params.model_copy(update={"evaluation": params.evaluation.model_copy(update={"episodes": 3})})
    with refused("not_comparable", keys=["episodes"], a="refinement-3"):
        check_joins(fewer, tmp_path / "kept")


def test_a_result_in_a_folder_of_another_name_is_refused(tmp_path: Path):
    study(tmp_path, 1)
    (tmp_path / "refinement-0").rename(tmp_path / "copy")
    with refused("wrong_folder", name="refinement-0"):
        read_results(tmp_path)


def test_no_result_and_a_broken_one_are_refused(tmp_path: Path):
    with refused("no_results", file=tmp_path):
        read_results(tmp_path)
    study(tmp_path, 1)
    (tmp_path / "refinement-0" / OUTCOMES).write_text('{"benchmark": 3}\n')
    with refused("stage_file_broken", file=tmp_path / "refinement-0" / OUTCOMES):
        read_results(tmp_path)


def test_the_rules_are_all_that_decides_an_episode():
    rules = rules_of(PARAMS)
    assert (rules["seed"], rules["max_steps"], rules["episodes"]) == (7, 20, 50)
    who = PARAMS.evaluation.model_copy(update={"models": ["base", "expert_only"], "batch_size": 3})
    assert rules_of(PARAMS.model_copy(update={"evaluation": who})) == rules | {"batch_size": 3}
    longer = PARAMS.evaluation.model_copy(update={"max_steps": 30})
    assert rules_of(PARAMS.model_copy(update={"evaluation": longer})) != rules
