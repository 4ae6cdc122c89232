"""How fast a random Llama is tuned on a GPU: the library against TRL and transformers' Trainer (`perf/tuning.py`)."""

import json
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig

from agentrefine.tuning.hardware import PACKAGES
from perf import children
from perf.gpu_base import read
from perf.gpu_results import Part, Speed
from perf.model_flops import (
    flops_per_token,
    least_flops_per_token,
    mean_context,
    multiplied_parameters,
    peak_flops,
)
from perf.tuning import SHAPES, Run, measure, prepare, rendered
from perf.tuning_ways import PADDED, TRL_ON_LABELS, Work

RUNGS = [{"activation_checkpointing": False}, {"activation_checkpointing": True}]
"""From fast to small: the next one is tried where the GPU's memory does not suffice."""


class Row(NamedTuple):
    """A row of the table: its name, one of `perf.tuning_ways.WAYS`, and what differs from the first row's settings."""

    name: str
    way: str
    changes: dict[str, Any]


ROWS = [Row("stage", "stage", {}), Row(TRL_ON_LABELS, TRL_ON_LABELS, {}), Row(PADDED, PADDED, {})]


def compare(
    part: Part,
    save: Callable[[], None],
    deadline: float,
    *,
    shape: str,
    method: str,
    layers: int | None,
    conversations: int,
    tokenizer: Path,
    data_set: Path,
    folder: Path,
    log: Callable[[str], Path],
) -> None:
    """Fill a part: a row for each way to tune, without activation checkpointing where that fits.

    Args:
        part: filled.
        save: called after every row.
        deadline: by `time.monotonic`.
        shape: one of `perf.tuning.SHAPES`.
        method: `full` or `lora`.
        layers: of the model; None: the shape's.
        conversations: that are trained on, each once.
        tokenizer: a folder with a tokenizer.
        data_set: a folder with train.jsonl.
        folder: an empty one.
        log: where a process's output goes, by its name.

    Raises:
        children.ChildError: the model could not be written, or a way failed; the other ways were run.
        children.OverdueError: the deadline has passed.
    """
    facts = folder / "facts.json"
    children.run(
        write_work, shape, method, layers, conversations, tokenizer, data_set, folder, facts,
        log=log(f"{method}_inputs"), deadline=deadline,
    )  # fmt: skip
    found = read(facts)
    work = Work.model_validate(found.pop("work"))
    part.facts = found
    save()
    failures = []
    lowest = 0
    for row in [*ROWS, *_further_rows(found["extras"])]:
        for rung in range(lowest, len(RUNGS)):
            try:
                run = measure(row.way, _changed(work, {**RUNGS[rung], **row.changes}), folder, deadline)
            except children.ChildError as error:
                failures.append(f"{row.name}: {error}")
                break
            finally:
                log(f"{method}_{row.name}".replace(" ", "_")).write_bytes((folder / "output.txt").read_bytes())
            if run is not None:
                lowest = rung if row is ROWS[0] else lowest  # what the first row needs, its peers need as well
                part.speeds.append(_speed(row.name, run, RUNGS[rung]["activation_checkpointing"], found))
                break
        else:
            part.speeds.append(Speed(way=row.name, out_of_memory=True))
        _add_ratios(part.speeds)
        save()
    if failures:
        raise children.ChildError("\n".join(failures))


def write_work(
    shape: str,
    method: str,
    layers: int | None,
    conversations: int,
    tokenizer: Path,
    data_set: Path,
    folder: Path,
    facts: Path,
) -> None:
    """Write the random model and the conversations, and what they are."""
    tuning = {"method": method, "precision": "auto", "packing": False}
    work = prepare(SHAPES[shape], conversations, tuning, layers, folder, tokenizer=tokenizer, data_set=data_set)
    config = AutoConfig.from_pretrained(work.base)
    rows = rendered(work)
    tokens = [len(row.ids) for row in rows]
    trained_share = sum(row.trained_tokens for row in rows) / sum(tokens)
    frozen = method != "full"
    context = mean_context(tokens)
    described = {
        "work": work.model_dump(mode="json"),
        "parameters that a token is multiplied with": multiplied_parameters(config),
        "conversations": len(tokens),
        "tokens": sum(tokens),
        "shortest, median, longest": f"{min(tokens)}, {statistics.median(tokens):.0f}, {max(tokens)}",
        "trained share": round(trained_share, 3),
        "FLOP a token": flops_per_token(
            multiplied_parameters(config),
            config.num_hidden_layers,
            config.num_attention_heads * config.head_dim,
            context,
            frozen=frozen,
        ),
        "least FLOP a token": least_flops_per_token(config, context, trained_share, frozen=frozen),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "extras": _extras(),
    }
    facts.write_text(json.dumps(described), encoding="utf-8")


def _extras() -> dict[str, str]:
    """What else a GPU's machine can run: a FlashAttention by its setting's name, Liger's kernels."""
    if not torch.cuda.is_available():
        return {}
    flash = next((name for name in reversed(PACKAGES) if find_spec(PACKAGES[name][0])), None)
    liger = "liger_kernel" if find_spec("liger_kernel") else None
    return {key: name for key, name in (("flash", flash), ("liger", liger)) if name}


def _further_rows(extras: dict[str, str]) -> list[Row]:
    rows = []
    if "liger" in extras:
        rows.append(Row("stage, Liger's kernels", "stage", {"liger_kernel": True}))
    if "flash" in extras:
        changes = {"attention": extras["flash"], "padding_free": True}
        rows.append(Row(f"stage, {extras['flash']}, padding-free", "stage", changes))
    return rows


def _changed(work: Work, changes: dict[str, Any]) -> Work:
    return work.model_copy(update={"params": work.params.model_copy(update=changes)})


def _speed(name: str, run: Run, checkpointing: bool, facts: dict[str, Any]) -> Speed:
    figures = run.figures
    speed = figures.tokens_per_second
    peak = peak_flops(facts["device"])
    return Speed(
        way=name,
        activation_checkpointing=checkpointing,
        tokens_per_second=speed,
        trained_tokens_per_second=speed * figures.trained_tokens_share,
        padding=figures.padding,
        tokens=figures.tokens,
        steps=figures.steps,
        seconds=figures.seconds,
        mfu=speed * facts["FLOP a token"] / peak if peak else None,
        mfu_least=speed * facts["least FLOP a token"] / peak if peak else None,
        mfu_note="" if peak else f"the peak of {facts['device']} is not known",
        gpu_bytes=figures.gpu_bytes,
    )


def _add_ratios(speeds: list[Speed]) -> None:
    by_way = {speed.way: speed.tokens_per_second for speed in speeds}
    for speed in speeds:
        if speed.tokens_per_second is not None:
            trl, trainer = by_way.get(TRL_ON_LABELS), by_way.get(PADDED)
            speed.by_trl = speed.tokens_per_second / trl if trl else None
            speed.by_trainer = speed.tokens_per_second / trainer if trainer else None
