"""Several seeds: a variant for each variant and seed, with data sets and names that fit each other."""

from pathlib import Path

import pytest
import yaml

from agentrefine.params import load_params, parse_params
from agentrefine.params.seeds import with_seeds, without_seed, write_seeds
from tests.helpers.errors import refused


def values(**changes: object) -> dict:
    read = yaml.safe_load(Path("params.yaml").read_text())
    read["on_policy"] = {"round1": {"model": "refinement"}, "round2": {"model": "own", "accumulate": True}}
    read["tuning"]["variants"]["own"] = {"train_on": "correct_turns", "data_set": "data/on_policy/round1"}
    read["evaluation"]["models"].append("own")
    return read | changes


def test_every_variant_is_there_once_for_each_seed_and_is_evaluated():
    params = parse_params(yaml.safe_dump(with_seeds(values(), [7, 8]), sort_keys=False), "params.yaml")
    assert list(params.tuning.variants) == [
        "expert_only-7", "expert_only-8", "refinement-7", "refinement-8", "own-7", "own-8"
    ]  # fmt: skip
    assert params.evaluation.models == ["base", *params.tuning.variants]
    assert [variant.seed for variant in params.tuning.variants.values()] == [7, 8] * 3
    assert params.baseline == "expert_only-7"


def test_each_model_makes_its_own_mistakes_and_its_successor_is_tuned_on_them():
    params = parse_params(yaml.safe_dump(with_seeds(values(), [7, 8]), sort_keys=False), "params.yaml")
    assert {name: made.model for name, made in params.on_policy.items()} == {
        "round1-7": "refinement-7", "round1-8": "refinement-8", "round2-7": "own-7", "round2-8": "own-8"
    }  # fmt: skip
    assert params.tuning.variants["own-8"].data_set == "data/on_policy/round1-8"
    assert params.tuning.variants["refinement-8"].data_set == "data/dataset"


def test_the_name_that_the_models_of_a_variant_share():
    params = parse_params(yaml.safe_dump(with_seeds(values(), [7, 8]), sort_keys=False), "params.yaml")
    names = [without_seed(name, variant) for name, variant in params.tuning.variants.items()]
    assert names == ["expert_only", "expert_only", "refinement", "refinement", "own", "own"]
    plain = load_params(Path("params.yaml")).tuning.variants["refinement"]
    assert without_seed("refinement-7", plain) == "refinement-7"


def test_the_file_keeps_its_comments_and_what_has_seeds_gets_no_further_ones(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(Path("params.yaml").read_text())
    write_seeds(file, [1, 2, 3])
    assert len(load_params(file).tuning.variants) == 6
    assert "# AdamW; for a pretrained model" in file.read_text()
    written = file.read_bytes()
    with refused("has_a_seed", key="tuning.variants.expert_only-1.seed"):
        write_seeds(file, [4])
    assert file.read_bytes() == written


def test_a_mix_of_own_games_is_refused():
    mix = {"chat": {"data_set": "data/on_policy/round1", "chat": "c.json", "share": 0.2}}
    with refused("mix_of_own_games", key="mix.chat.data_set"):
        with_seeds(values(mix=mix), [7])


@pytest.mark.parametrize("seeds", [[7, 7], [1, 2, 1]])
def test_a_seed_that_stands_twice_is_refused(seeds):
    with refused("bad_value", key="seeds", value=seeds[0]):
        with_seeds(values(), seeds)
