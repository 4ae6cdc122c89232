"""The study of success by the number of games: it adds what is missing, and nothing twice."""

import sys
from pathlib import Path

import pytest

from agentrefine.files import read_jsonl
from agentrefine.params import load_params
from agentrefine.params.evaluation import EvaluationParams
from perf import learning_curve
from perf.learning_curve import Model, Point, Study, chosen_games, main
from tests.helpers.errors import refused
from tests.helpers.tuning_samples import write_base, write_data_set

PARAMS = Path("params.yaml")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"), max_position_embeddings=4096)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    return write_data_set(tmp_path_factory.mktemp("data"), samples=12, validation=2)


def study(base: Path, data_set: Path) -> Study:
    params = load_params(PARAMS)
    return Study(params, base, data_set, ["worlds_layouts"])


def test_smaller_sets_of_games_are_parts_of_larger_ones(base, data_set):
    sizes = {size: [game.id for game in chosen_games(study(base, data_set), size)] for size in (4, 8, float("inf"))}
    assert sizes[4] == sizes[8][:4] == sizes[float("inf")][:4]
    assert sizes[8] == sizes[float("inf")][:8]
    assert len(sizes[float("inf")]) == 12
    with refused("too_few_games", found=12, expected=13):
        chosen_games(study(base, data_set), 13)


def test_what_decides_a_point_is_in_its_key(base, data_set):
    first = study(base, data_set)
    games = chosen_games(first, 4)
    keys = {
        learning_curve.key(first, Model(4, "correct_turns"), games, "worlds_layouts"),
        learning_curve.key(first, Model(4, "correct_turns"), games, "worlds_families"),
        learning_curve.key(first, Model(4, "without_refinement_data"), games, "worlds_layouts"),
        learning_curve.key(first, Model(3, "correct_turns"), games[:3], "worlds_layouts"),
        learning_curve.key(first, Model(0, "correct_turns"), [], "worlds_layouts"),
    }
    evaluation = EvaluationParams.model_validate({**first.params.evaluation.model_dump(), "episodes": 3})
    other = first._replace(params=first.params.model_copy(update={"evaluation": evaluation}))
    keys.add(learning_curve.key(other, Model(4, "correct_turns"), games, "worlds_layouts"))
    assert len(keys) == 6
    kept = first.params.tuning.model_copy(update={"checkpoint_steps": 7})
    same = first._replace(params=first.params.model_copy(update={"tuning": kept}))
    assert learning_curve.key(same, Model(4, "correct_turns"), games, "worlds_layouts") in keys


@pytest.mark.slow
def test_a_second_run_adds_what_is_missing_and_plays_nothing_again(base, data_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(learning_curve, "WORK", tmp_path / "work")
    out = tmp_path / "points.jsonl"
    options = ["--params", PARAMS, "--base", base, "--data-set", data_set, "--out", out, "--epochs", "1"]
    options += ["--episodes", "2", "--steps", "2", "--learning-rate", "0.004", "--benchmarks", "worlds_layouts"]

    def run(*further: str) -> list[Point]:
        monkeypatch.setattr(sys, "argv", ["learning_curve", *map(str, options), "--sizes", *further])
        main()
        return list(read_jsonl(out, Point))

    first = run("0", "8")
    assert [(point.games, point.train_on, point.epochs) for point in first] == [(0, "", 0), (8, "correct_turns", 1)]
    assert [point.success.n for point in first] == [2, 2]
    assert first[1].validation_loss is not None
    again = run("8", "all")
    assert again[:2] == first
    assert [point.games for point in again] == [0, 8, 12]
    assert not list((tmp_path / "work").iterdir())
    assert "| worlds_layouts | 12 | correct_turns | 1 |" in capsys.readouterr().out
