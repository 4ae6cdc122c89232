"""Several seeds: every variant is tuned once for each, under a name that says it (`refinement-7`).

One tuning is one draw: with another order of the samples the same data give another model. The models of a variant are
played on the same episodes, so that variants can be compared over seeds and episodes together.

The seeds stand in params.yaml as variants, because DVC draws its graph from there, and a product of variants and seeds
(DVC's `matrix`) cannot name each variant's data set.
"""

import io
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from agentrefine.errors import UserError
from agentrefine.files import read_text, write_text
from agentrefine.params import Params, load_params, parse_params
from agentrefine.params.tuning import BASE, Variant

ON_POLICY = "data/on_policy/"


def with_seeds(values: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """The values of a params.yaml with a variant for each variant and seed, in the order of the variants.

    A data set of `on_policy` is made once for each seed too, since each model makes its own mistakes.

    Example: `{"tuning": {"variants": {"refinement": {...}}}, ...}` and the seeds 7 and 8 give
    `{"tuning": {"variants": {"refinement-7": {..., "seed": 7}, "refinement-8": {..., "seed": 8}}}, ...}`

    Args:
        values: of a params.yaml that is valid; they stay as they are.
        seeds: at least one.

    Raises:
        UserError: a seed stands twice, a variant has a seed already, or a mix reads a data set of `on_policy`.
    """
    if twice := [seed for seed in seeds if list(seeds).count(seed) > 1]:
        raise UserError("bad_value", f"seeds: {twice[0]} stands twice; write each once.", key="seeds", value=twice[0])
    changed = deepcopy(values)
    tuning, played = changed["tuning"], changed["evaluation"]["models"]
    variants, own_games = tuning["variants"], changed.get("on_policy") or {}
    for name, variant in variants.items():
        if variant.get("seed") is not None:
            message = (
                f"tuning.variants.{name} has the seed {variant['seed']} already; bring back the variants without seeds "
                "(git has params.yaml as it was), then name all seeds at once."
            )
            raise UserError("has_a_seed", message, key=f"tuning.variants.{name}.seed")
    for name, mix in (changed.get("mix") or {}).items():
        if mix["data_set"].removeprefix(ON_POLICY) in own_games and mix["data_set"].startswith(ON_POLICY):
            message = (
                f"mix.{name} reads {mix['data_set']}, which every seed would make for itself; write a mix for each "
                "seed by hand, or leave it out."
            )
            raise UserError("mix_of_own_games", message, key=f"mix.{name}.data_set")
    tuning["variants"] = {
        _named(name, seed): {**variant, "data_set": _data_set(variant["data_set"], own_games, seed), "seed": seed}
        for name, variant in variants.items()
        for seed in seeds
    }
    if own_games:
        changed["on_policy"] = {
            _named(name, seed): {**made, "model": _named(made["model"], seed)}
            for name, made in own_games.items()
            for seed in seeds
        }
    changed["evaluation"]["models"] = [
        model for name in played for model in ([name] if name == BASE else [_named(name, seed) for seed in seeds])
    ]
    baseline = changed.get("report", {}).get("baseline", Params().report.baseline)
    if baseline in variants:
        changed.setdefault("report", {})["baseline"] = _named(baseline, seeds[0])
    return changed


def write_seeds(file: Path, seeds: Sequence[int]) -> None:
    """Write a params.yaml with a variant for each variant and seed in its place; comments elsewhere stay.

    Raises:
        UserError: the file is not valid, or as `with_seeds`; nothing is written.
    """
    load_params(file)
    yaml = YAML()
    yaml.default_flow_style = False
    text = io.StringIO()
    yaml.dump(with_seeds(yaml.load(read_text(file, "run from the project's folder")), seeds), text)
    parse_params(text.getvalue(), file)
    write_text(file, text.getvalue())


def without_seed(model: str, variant: Variant) -> str:
    """The name that the models of a variant share: `refinement` of `refinement-7` with the seed 7."""
    return model if variant.seed is None else model.removesuffix(f"-{variant.seed}")


def _named(name: str, seed: int) -> str:
    return f"{name}-{seed}"


def _data_set(path: str, own_games: dict[str, Any], seed: int) -> str:
    name = path.removeprefix(ON_POLICY)
    return ON_POLICY + _named(name, seed) if path.startswith(ON_POLICY) and name in own_games else path
