"""Cards for the Hugging Face hub, as Markdown: the command `agentrefine card`."""

import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from agentrefine.errors import UserError
from agentrefine.evaluation.metrics import BenchmarkSummary
from agentrefine.files import read_jsonl, read_result
from agentrefine.game.conversation import Sample, prompt
from agentrefine.game.counts import RefinementCounts, SynthesisCounts, VerificationCounts
from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from agentrefine.quality.gate import GateResult
from agentrefine.report.document import OFFLINE_TEACHER, caveats, render
from agentrefine.report.inputs import Project, base_quantisation, model_summary
from agentrefine.report.plots import label
from agentrefine.report.tables import percent
from agentrefine.tuning.cards import BaseCard, ReferenceCard, TunedCard
from agentrefine.tuning.masking import POLICIES
from agentrefine.tuning.results import TuningFigures
from agentrefine.verification.trajectory_rules import RULES

TAGS = ["agent", "refinement-tuning", "agentrefine", "arxiv:2501.01702"]
"""Of both cards; the hub links the last one to the paper."""

OWN_PERSONAS = "data/personas.jsonl"
DATA_SET = Path("data/dataset")
MIXES = Path("data/mix")

HYPERPARAMETERS = (
    "method", "lora", "epochs", "learning_rate", "muon_learning_rate", "weight_decay", "lr_scheduler_type",
    "warmup_steps", "max_grad_norm", "batch_tokens", "gradient_accumulation_steps", "max_length", "packing",
    "precision",
)  # fmt: skip
"""Of the section `tuning`: what decides the weights, and nothing that could name a place on the machine."""

EXAMPLE_MESSAGES = 6
SHOWN_CHARACTERS = 600
"""Of each message of the example."""

MEANINGS = {rule.value: rule.meaning for rule in RULES}

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def model_card(
    variant: str,
    params: Params,
    project: Project,
    *,
    repo_id: str = "USER/REPO",
    licence: str | None = None,
    data_set_id: str | None = None,
) -> str:
    """The card of a tuned model: where it comes from, how to use it, what it reached.

    Args:
        variant: the model's name.
        params: of the run that made it.
        project: where the stages left their files. A model that was not evaluated has a card without results.
        repo_id: where the model will be, for the example of its use.
        licence: the hub's id of a licence; None leaves it to the user.
        data_set_id: the data set's id on the hub, if it is there.

    Raises:
        UserError: the model was not tuned here, or a file is not what its stage writes.
    """
    stage = f"tuning@{variant}"
    card = read_result(project.root / "models" / variant / "card.json", TunedCard, stage)
    figures = read_result(project.tuning(variant) / "metrics.json", TuningFigures, stage)
    results = _results(project, variant)
    is_adapter = (project.root / "models" / variant / "adapter_config.json").is_file()
    base = base_hub_id(project)
    front = ModelCardData(
        base_model=base,
        datasets=data_set_id,
        library_name="peft" if is_adapter else "transformers",
        license=licence,
        model_name=repo_id.partition("/")[2],
        pipeline_tag="text-generation",
        tags=TAGS,
        eval_results=list(_eval_results(results)) or None,
    )
    base_results = _results(project, BASE)
    mix = next((mix for name, mix in params.mix.items() if Path(card.data_set) == MIXES / name), None)
    games = Path(mix.data_set if mix else card.data_set)
    values = {
        "front": _front_matter(front, licence),
        "title": repo_id.partition("/")[2],
        "variant": variant,
        "repo_id": repo_id,
        "is_adapter": is_adapter,
        "base": base,
        "is_tiny": params.base_model.is_tiny,
        "train_on": card.train_on,
        "policy": POLICIES[card.train_on].__doc__,
        "figures": figures,
        "data_set": shown_path(card.data_set),
        "data_set_id": data_set_id,
        "train_sha256": card.data_set_sha256["train.jsonl"],
        "seed": card.seed,
        "hyperparameters": {
            key: card.params[key]
            for key in HYPERPARAMETERS
            if key in card.params and (key != "lora" or card.params.get("method") != "full")
        },
        "results": [
            {
                "benchmark": label(name),
                "n": summary.episodes,
                "base": percent(base_results[name].success_rate) if name in base_results else "-",
                "success": percent(summary.success_rate),
                "progress": percent(summary.progress_rate),
                "recovery": percent(summary.recovery_rate),
            }
            for name, summary in results.items()
        ],
        "max_steps": params.evaluation.max_steps,
        "instructions": prompt("instructions.md").rstrip("\n"),
        "acknowledgement": prompt("acknowledgement.md"),
        "mix": mix,
        "caveats": [
            caveat
            for caveat in caveats(params, base_quantisation(project))
            if caveat != OFFLINE_TEACHER or games == DATA_SET
        ],
    }
    return render("model_card.md.jinja", values)


def data_set_card(params: Params, project: Project, *, repo_id: str = "USER/REPO", licence: str | None = None) -> str:
    """The card of the gated data set: what it is, who wrote it, what was dropped and why, and what it is not.

    Args:
        params: of the run that made it.
        project: where the stages left their files.
        repo_id: where the data set will be, for the example of its use.
        licence: the hub's id of a licence; None leaves it to the user.

    Raises:
        UserError: a stage has not run, its file is not what it writes, or the gate refused the data set.
    """
    data = project.root / "data"
    refinement = read_result(data / "refinement" / "metrics.json", RefinementCounts, "refinement")
    gate = read_result(project.root / "reports" / "quality_gate" / "result.json", GateResult, "quality_gate")
    if not gate.passed:
        raise UserError(
            "gate_failed",
            "reports/quality_gate/result.json: the data set did not pass the gate, so it has no card.",
            file="reports/quality_gate/result.json",
        )
    train, validation = (_samples(project.root / DATA_SET / f"{split}.jsonl") for split in ("train", "validation"))
    front = DatasetCardData(
        license=licence,
        pretty_name=repo_id.partition("/")[2],
        size_categories=next((name for limit, name in SIZES if train + validation < limit), "n>1M"),
        task_categories=["text-generation"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": s, "path": f"{s}.jsonl"} for s in ("train", "validation")],
            }
        ],
        tags=[*TAGS, "synthetic"],
    )
    values = {
        "front": _front_matter(front, licence),
        "title": repo_id.partition("/")[2],
        "repo_id": repo_id,
        "train": train,
        "validation": validation,
        "offline": params.teacher.uses_offline,
        "teachers": sorted({role.model for role in params.teacher.roles.values() if not role.is_offline}),
        "own_personas": params.personas.path == OWN_PERSONAS,
        "personas_file": shown_path(params.personas.path),
        "synthesis": read_result(data / "synthesis" / "metrics.json", SynthesisCounts, "synthesis"),
        "verification": read_result(data / "verification" / "metrics.json", VerificationCounts, "verification"),
        "refinement": refinement,
        "dropped": [
            {"rule": rule, "meaning": MEANINGS.get(rule, ""), "count": count}
            for rule, count in sorted(refinement.dropped_by_rule.items(), key=lambda item: (-item[1], item[0]))
        ],
        "features": gate.data_set,
        "overlap": {name: found for name, found in gate.overlap.items() if not found.missing},
        "met": sum(finding.success for finding in gate.findings),
        "expectations": len(gate.findings),
        "example": _example(project.root / DATA_SET / "train.jsonl"),
        "shown_characters": SHOWN_CHARACTERS,
    }
    return render("data_set_card.md.jinja", values)


def base_hub_id(project: Project) -> str | None:
    """The hub id of the base model; None where it was made here or lies in a folder.

    Raises:
        UserError: the base_model stage has not run.
    """
    card = read_result(project.root / "models" / BASE / "card.json", BaseCard, "base_model").root
    if not isinstance(card, ReferenceCard):
        return None
    on_hub = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", card.path) and not (project.root / card.path).exists()
    return card.path if on_hub else None


def shown_path(path: str) -> str:
    """A path as a card may show it: of one outside the project only the last part, which names no place."""
    parts = Path(path).parts
    inside = not Path(path).is_absolute() and not {"..", "~"} & set(parts)
    return Path(path).as_posix() if inside else Path(path).name


def _front_matter(front: ModelCardData | DatasetCardData, licence: str | None) -> str:
    """The hub's metadata, with a reminder where the licence is still to be chosen."""
    return front.to_yaml() + ("" if licence else "\n# license: choose one that base model, teacher and personas allow")


def _results(project: Project, model: str) -> dict[str, BenchmarkSummary]:
    if not (project.evaluation(model) / "details.json").is_file():
        return {}
    return model_summary(project, model)


def _eval_results(results: dict[str, BenchmarkSummary]) -> Iterator[EvalResult]:
    """Success and progress of each benchmark for the hub's model-index, in percent."""
    for benchmark, summary in results.items():
        for name, rate in (("success_rate", summary.success_rate), ("progress_rate", summary.progress_rate)):
            if rate.value is not None:
                yield EvalResult(
                    task_type="text-generation",
                    task_name="playing as an agent",
                    dataset_type=benchmark,
                    dataset_name=label(benchmark),
                    metric_type=name,
                    metric_name=f"{label(name)} in percent [95% interval], {rate.n} episodes: {percent(rate)}",
                    metric_value=round(100 * rate.value, 1),
                )


def _samples(file: Path) -> int:
    return sum(1 for _ in read_jsonl(file, Sample))


def _example(file: Path) -> list[str]:
    """The first messages of the first sample, up to its second turn, as JSON."""
    sample = next(read_jsonl(file, Sample), None)
    if sample is None:
        raise UserError("no_samples", f"{file}: holds no sample; run the stage quality_gate again.", file=file)
    return [
        json.dumps({"from": m.from_, "value": _shortened(m.value), "loss": m.loss}, ensure_ascii=False)
        for m in islice(sample.conversations, EXAMPLE_MESSAGES)
    ]


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]} ..."
