"""Tune a small chat model on games and let it play, by the library, on a GPU."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig

from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.errors import NotInstalledError
from agentrefine.evaluation.local import LocalPolicy
from agentrefine.evaluation.metrics import Rate, summarise
from agentrefine.evaluation.policy import Policy
from agentrefine.evaluation.reference import ChancePolicy
from agentrefine.evaluation.rollout import play
from agentrefine.files import read_jsonl, write_jsonl
from agentrefine.game.conversation import Sample
from agentrefine.params import load_params
from agentrefine.params.evaluation import CHANCE
from agentrefine.params.tuning import MaskPolicy, TuningParams
from agentrefine.tuning.chat_template import render
from agentrefine.tuning.models import load_tokenizer, load_tuned
from agentrefine.tuning.train import TuningJob, tune
from perf import children
from perf.gpu_base import read
from perf.gpu_results import Interval, Part, Play, Tuned
from perf.model_flops import flops_per_token, mean_context, multiplied_parameters, peak_flops
from perf.tuning import ROOT
from perf.tuning_ways import Clock

SEED = 7
"""Of the episodes and of chance."""


class Rules(NamedTuple):
    """How a benchmark is played: episodes, steps of each at most, tokens of a reply at most."""

    episodes: int
    steps: int
    new_tokens: int


def first_games(data_set: Path, games: int | None, folder: Path) -> Path:
    """The data set itself, or one of its first games only, with as many to validate on as a tenth of them.

    Raises:
        UserError: the data set is missing or broken.
    """
    if games is None:
        return data_set
    for name, most in (("train.jsonl", games), ("validation.jsonl", max(1, games // 10))):
        write_jsonl(folder / name, islice(read_jsonl(data_set / name, Sample), most))
    return folder


def tune_variant(
    part: Part,
    save: Callable[[], None],
    deadline: float,
    *,
    variant: str,
    train_on: MaskPolicy,
    base: Path,
    data_set: Path,
    settings: dict[str, Any],
    folder: Path,
    log: Callable[[str], Path],
) -> None:
    """Tune a variant into `folder`, and add its row.

    Args:
        part: gets the row.
        save: called after it.
        deadline: by `time.monotonic`.
        variant: its name.
        loss: which turns are trained.
        base: the model's folder.
        data_set: a folder with train.jsonl and validation.jsonl.
        settings: of `tuning`, beyond params.yaml.
        folder: where the model goes, by the variant's name.
        log: where a process's output goes, by its name.

    Raises:
        children.ChildError: it failed.
        children.OverdueError: the deadline has passed.
    """
    out = folder / f"{variant}.json"
    params = load_params(ROOT / "params.yaml")
    section = TuningParams.model_validate({**params.tuning.model_dump(), **settings})
    job = TuningJob(train_on=train_on, data_set=data_set, base=str(base), params=section, seed=params.seed)
    children.run(tune_one, job, folder / variant, out, log=log(f"tune_{variant}"), deadline=deadline)
    part.tuned.append(Tuned(variant=variant, **read(out)))
    save()


def tune_one(job: TuningJob, model: Path, out: Path) -> None:
    """Tune, and write the figures."""
    clock = Clock(load_tokenizer(job.base).pad_token_id)
    result = tune(job, model, [clock])
    config = AutoConfig.from_pretrained(model)
    tokenizer = load_tokenizer(model)
    lengths = [
        len(render(tokenizer, sample.messages(), job.train_on, job.params.max_length).ids)
        for sample in read_jsonl(job.data_set / "train.jsonl", Sample)
    ]
    flops = flops_per_token(
        multiplied_parameters(config),
        config.num_hidden_layers,
        config.num_attention_heads * config.head_dim,
        mean_context(lengths),
    )
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    kept = (
        "tokens",
        "trained_tokens",
        "steps",
        "seconds",
        "tokens_per_second",
        "validation_loss_before",
        "validation_loss",
    )
    figures = {name: getattr(result, name) for name in kept}
    figures["mfu"] = result.tokens_per_second * flops / peak if peak else None
    out.write_text(json.dumps(figures), encoding="utf-8")


def play_all(
    part: Part,
    save: Callable[[], None],
    deadline: float,
    *,
    models: dict[str, Path],
    benchmarks: tuple[str, ...],
    rules: Rules,
    folder: Path,
    log: Callable[[str], Path],
) -> None:
    """Let chance and every model play every benchmark, side by side on the one GPU, and add a row for each.

    One episode's turn is a chain of small kernels that leaves most of a GPU idle. A benchmark whose simulator is not
    installed is noted and left out.

    Args:
        part: gets the rows.
        save: called after each.
        deadline: by `time.monotonic`.
        models: folders by name.
        benchmarks: by name.
        rules: of all benchmarks.
        folder: for the figures.
        log: where a process's output goes, by its name.

    Raises:
        children.ChildError: a process failed; the others have ended.
        children.OverdueError: the deadline has passed.
    """
    installed = []
    for name in benchmarks:
        try:
            benchmark(name).episodes(1, SEED)
        except NotInstalledError as error:
            part.facts[name] = str(error)
        else:
            installed.append(name)
    playing = {
        (model, name): children.Child(
            play_one, model, path, name, rules, folder / f"{model}.{name}.json", log=log(f"play_{model}_{name}")
        )
        for name in installed
        for model, path in {CHANCE: None, **models}.items()
    }
    failures = []
    try:
        for (model, name), child in playing.items():
            try:
                child.wait(deadline)
            except children.ChildError as error:
                failures.append(f"{model} on {name}: {error}")
                continue
            part.plays.append(Play(model=model, benchmark=name, **read(folder / f"{model}.{name}.json")))
            save()
    finally:
        for child in playing.values():
            child.end()
    if failures:
        raise children.ChildError("\n".join(failures))


def play_one(model: str, path: Path | None, name: str, rules: Rules, out: Path) -> None:
    """Play one benchmark, by chance where there is no model, and write the rates."""
    games = benchmark(name)
    policy: Policy
    if path is None:
        policy = ChancePolicy(SEED)
    else:
        loaded = load_tuned(path)
        policy = LocalPolicy(loaded.model, loaded.tokenizer, name=model, max_new_tokens=rules.new_tokens)
    began = time.monotonic()
    with closing(policy):
        specs = games.episodes(rules.episodes, SEED)
        episodes = list(play(policy, games, specs, max_steps=rules.steps, batch_size=rules.episodes))
    summary = summarise(episodes)[name]
    rates = {
        "success": summary.success_rate,
        "progress": summary.progress_rate,
        "format_errors": summary.format_error_rate,
        "stuck": summary.stuck_rate,
    }
    figures = {key: _interval(rate).model_dump() for key, rate in rates.items()}
    out.write_text(json.dumps({**figures, "seconds": time.monotonic() - began}), encoding="utf-8")


def _interval(rate: Rate) -> Interval:
    return Interval(value=rate.value, low=rate.low, high=rate.high, n=rate.n)
