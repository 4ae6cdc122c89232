"""The data set of corrected games: its split, injected games among them, what the gate measures, and the settings."""

import json
from pathlib import Path

import pytest
import yaml

from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.game.corrected import CorrectedGame, CorrectedTurn, corrected_sample
from agentrefine.on_policy.data_set import write_corrected
from agentrefine.params import Params, parse_params
from agentrefine.params.on_policy import OnPolicy
from agentrefine.quality.corrected import corrected_features
from tests.helpers.errors import refused
from tests.helpers.tuning_samples import as_sample
from tests.on_policy.test_coaching import played

GAMES = played()
SETTINGS = OnPolicy(model="refinement", worlds=4)


def written(
    folder: Path, settings: OnPolicy = SETTINGS, injected: int = 0
) -> tuple[object, list[Sample], list[Sample]]:
    if injected:
        write_jsonl(folder / "injected/train.jsonl", [as_sample(number) for number in range(injected)])
    counts = write_corrected(
        GAMES, settings, folder / "injected", folder / "earlier", folder / "out",
        played=4, given_up=0, validation_share=0.25, seed=7,
    )  # fmt: skip
    train, validation = (
        list(read_jsonl(folder / "out" / f"{split}.jsonl", Sample)) for split in ("train", "validation")
    )
    return counts, train, validation


def test_the_folder_holds_games_samples_and_counts(tmp_path):
    counts, train, validation = written(tmp_path)
    assert (counts.games, counts.train, counts.validation, counts.injected) == (4, 3, 1, 0)
    assert sum(counts.faults.values()) == sum(turn.fault is not None for game in GAMES for turn in game.turns)
    assert list(read_jsonl(tmp_path / "out/games.jsonl", CorrectedGame)) == GAMES
    assert {s.id for s in (*train, *validation)} == {game.id for game in GAMES}
    assert not {s.persona_id for s in train} & {s.persona_id for s in validation}
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == counts.model_dump()
    assert train[0] in [corrected_sample(game, "agreeing") for game in GAMES]


def test_injected_games_are_the_share_of_the_training_samples_that_is_asked_for(tmp_path):
    counts, train, validation = written(tmp_path, SETTINGS.model_copy(update={"injected_share": 0.5}), injected=20)
    assert counts.injected == 3 == sum(sample.id.isdigit() for sample in train)
    assert not any(sample.id.isdigit() for sample in validation)
    again = written(tmp_path, SETTINGS.model_copy(update={"injected_share": 0.5}), injected=20)
    assert again == (counts, train, validation)


def test_a_later_round_adds_all_samples_that_the_model_was_tuned_on(tmp_path):
    settings = SETTINGS.model_copy(update={"accumulate": True})
    with refused("stage_not_run", file=tmp_path / "earlier/train.jsonl"):
        written(tmp_path, settings)
    assert not (tmp_path / "out").exists()
    write_jsonl(tmp_path / "earlier/train.jsonl", [as_sample(number) for number in range(9)])
    counts, train, validation = written(tmp_path, settings)
    assert (counts.earlier, counts.injected, counts.train, counts.validation) == (9, 0, 12, 1)
    assert {sample.id for sample in train} >= {as_sample(number).id for number in range(9)}
    assert not any(sample.id.isdigit() for sample in validation)
    assert [sample.id for sample in train] != sorted(sample.id for sample in train)


def test_too_few_injected_games_are_refused_and_nothing_is_written(tmp_path):
    with refused("too_few_samples", found=2, expected=27):
        written(tmp_path, SETTINGS.model_copy(update={"injected_share": 0.9}), injected=2)
    assert not (tmp_path / "out").exists()


def test_the_gate_measures_faults_corrections_duplicates_and_held_out_worlds():
    features = corrected_features(GAMES, played=5, given_up=1, similarity=0.9)
    turns = [turn for game in GAMES for turn in game.turns]
    faults = sum(turn.fault is not None for turn in turns)
    assert (features.games, features.given_up_share, features.held_out_overlaps) == (4, 0.2, 0)
    assert features.fault_share == faults / len(turns)
    assert features.corrected_share == 1.0
    doubled = [*GAMES, GAMES[0].model_copy(update={"id": "copy", "world": "fetch.kitchen.1000001"})]
    repeated = corrected_features(doubled, played=6, given_up=1, similarity=0.9)
    assert (repeated.near_duplicate_share, repeated.held_out_overlaps) == (0.2, 1)


def test_a_row_of_mistakes_counts_as_corrected_where_the_expert_ends_it():
    row = GAMES[0].model_copy(update={"turns": [_turn("model", "place_error")] * 3 + [_turn("expert", None)]})
    alone = GAMES[0].model_copy(update={"turns": [_turn("model", "place_error"), _turn("model", None)]})
    features = corrected_features([row, alone], played=2, given_up=0, similarity=0.9)
    assert features.corrected_share == 0.5


def _turn(by, fault):
    return CorrectedTurn(by=by, text="Thought: t\nAction: a", observation="o", fault=fault, as_expert=False)


def with_set(**changes: object) -> Params:
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["on_policy"] = {"round1": {"model": "refinement"} | changes}
    return parse_params(yaml.safe_dump(values), "params.yaml")


def test_a_model_that_no_variant_is_and_a_mask_policy_that_would_misread_the_games_are_refused():
    assert with_set().on_policy["round1"].train_own == "agreeing"
    with refused("bad_value"):
        with_set(model="refinment")
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["on_policy"] = {"round1": {"model": "refinement"}}
    for train_on, allowed in (("correct_turns", True), ("without_refinement_data", False)):
        values["tuning"]["variants"]["own"] = {"train_on": train_on, "data_set": "data/on_policy/round1"}
        if allowed:
            parse_params(yaml.safe_dump(values), "params.yaml")
        else:
            with refused("bad_value"):
                parse_params(yaml.safe_dump(values), "params.yaml")


def test_neither_a_slash_nor_a_mix_hides_where_the_games_come_from():
    values = yaml.safe_load(Path("params.yaml").read_text())
    values["on_policy"] = {"round1": {"model": "refinement"}}
    own = {"train_on": "correct_turns", "data_set": "data/on_policy/round1/"}
    values["tuning"]["variants"]["own"] = own
    values["mix"] = {
        "chat": {"data_set": "data/on_policy/round1", "chat": "chat.json", "share": 0.2},
        "more": {"data_set": "data/mix/chat/", "chat": "chat.json", "share": 0.2},
    }
    params = parse_params(yaml.safe_dump(values), "params.yaml")
    assert params.tuning.variants["own"].data_set == "data/on_policy/round1"
    assert params.origin("data/mix/more") == "data/on_policy/round1"
    assert params.origin("data/dataset") == "data/dataset"
    for data_set in ("data/on_policy/round1/", "data/mix/chat", "data/mix/more"):
        values["tuning"]["variants"]["own"] = {"train_on": "without_refinement_data", "data_set": data_set}
        with refused("bad_value"):
            parse_params(yaml.safe_dump(values), "params.yaml")


@pytest.mark.parametrize("train_own", ["none", "agreeing", "all"])
def test_a_sample_holds_every_turn_of_its_game_whatever_is_trained(train_own):
    for game in GAMES:
        values = [message.value for message in corrected_sample(game, train_own).conversations]
        assert [turn.text for turn in game.turns] == values[3::2]
