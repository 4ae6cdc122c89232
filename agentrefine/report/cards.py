"""Cards for the Hugging Face hub, as Markdown: the command `agentrefine card`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from agentrefine.errors import UserError
from agentrefine.evaluation.metrics import BenchmarkSummary
from agentrefine.files import read_jsonl, read_result
from agentrefine.game.conversation import Sample, prompt
from agentrefine.game.counts import RepairCounts, SynthesisCounts, VerificationCounts
from agentrefine.params import Params
from agentrefine.params.tuning import BASE
from agentrefine.quality.data_set import SPLITS
from agentrefine.report.document import caveats, render
from agentrefine.report.figures import label
from agentrefine.report.inputs import Project, base_card, model_summary
from agentrefine.report.tables import percent
from agentrefine.tuning.cards import BaseCard, ReferenceCard, TunedCard, TuningFigures, quantisation_of
from agentrefine.tuning.masking import POLICIES
from agentrefine.verification.trajectory_rules import RULES

TAGS = ["agent", "refinement-tuning", "agentrefine", "arxiv:2501.01702"]
"""The tags of both cards; the hub links the last one to the paper."""

OWN_PERSONAS = "data/personas.jsonl"
DATA_SET = Path("data/dataset")
MIXES = Path("data/mix")

HYPERPARAMETERS = (
    "method", "lora", "epochs", "tokens", "learning_rate", "muon_learning_rate", "weight_decay", "lr_scheduler_type",
    "warmup_steps", "max_grad_norm", "batch_tokens", "gradient_accumulation_steps", "max_length", "packing",
    "precision",
)  # fmt: skip
"""Keys of the section `tuning` that decide the weights; none of them can name a place on the machine."""

EXAMPLE_MESSAGES = 6
SHOWN_CHARACTERS = 600
"""Characters of each message that the example shows."""

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
    """The card of a tuned model: where it comes from, how to use it and, if it was evaluated, what it reached.

    Args:
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
    mix = next((mix for name, mix in params.mix.items() if Path(card.data_set) == MIXES / name), None)
    known = caveats(params, quantisation_of(base_card(project)))
    origin = params.origin(card.data_set)
    injecting = {f"data/on_policy/{name}" for name, made in params.on_policy.items() if made.injected_share}
    if Path(origin) != DATA_SET and origin not in injecting:
        known.pop("simulated_teacher", None)
    values = {
        "front": _front_matter(front),
        "title": front.model_name,
        "repo_id": repo_id,
        "is_adapter": is_adapter,
        "base": base,
        "is_tiny": params.base_model.is_tiny,
        "card": card,
        "policy": POLICIES[card.train_on].__doc__,
        "figures": figures,
        "data_set": data_set_id or f"`{shown_path(card.data_set)}`",
        "hyperparameters": {
            key: card.params[key]
            for key in HYPERPARAMETERS
            if key in card.params and (key != "lora" or card.params.get("method") != "full")
        },
        "results": results,
        "base_results": _results(project, BASE),
        "max_steps": params.evaluation.max_steps,
        "instructions": prompt("instructions.md").rstrip("\n"),
        "acknowledgement": prompt("acknowledgement.md"),
        "mix": mix,
        "caveats": known.values(),
    }
    return render("model_card.md.jinja", values)


def data_set_card(params: Params, project: Project, *, repo_id: str = "USER/REPO", licence: str | None = None) -> str:
    """The card of the gated data set: what it is, who wrote it, what was dropped and why, and what it is not.

    `repo_id` and `licence` are as in `model_card`.

    Raises:
        UserError: a stage has not run, its file is not what it writes, or the gate refused the data set.
    """
    data = project.root / "data"
    repair = read_result(data / "repair" / "metrics.json", RepairCounts, "repair")
    gate = project.gate()
    if not gate.passed:
        message = "reports/quality_gate/result.json: the data set did not pass the gate, so it has no card."
        raise UserError("gate_failed", message, file="reports/quality_gate/result.json")
    files = [project.root / DATA_SET / f"{split}.jsonl" for split in SPLITS]
    train, validation = (sum(1 for _ in read_jsonl(file, Sample)) for file in files)
    front = DatasetCardData(
        license=licence,
        pretty_name=repo_id.partition("/")[2],
        size_categories=next((name for limit, name in SIZES if train + validation < limit), "n>1M"),
        task_categories=["text-generation"],
        configs=[{"config_name": "default", "data_files": [{"split": s, "path": f"{s}.jsonl"} for s in SPLITS]}],
        tags=[*TAGS, "synthetic"],
    )
    values = {
        "front": _front_matter(front),
        "title": front.pretty_name,
        "repo_id": repo_id,
        "train": train,
        "validation": validation,
        "simulated": params.teacher.uses_simulated_teacher,
        "teachers": sorted({role.model for role in params.teacher.roles.values() if not role.is_simulated}),
        "own_personas": params.personas.path == OWN_PERSONAS,
        "personas_file": shown_path(params.personas.path),
        "synthesis": read_result(data / "synthesis" / "metrics.json", SynthesisCounts, "synthesis"),
        "verification": read_result(data / "verification" / "metrics.json", VerificationCounts, "verification"),
        "repair": repair,
        "meanings": {rule.value: rule.meaning for rule in RULES},
        "gate": gate,
        "overlap": {name: found for name, found in gate.overlap.items() if not found.missing},
        "example": _example(files[0]),
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


def _front_matter(front: ModelCardData | DatasetCardData) -> str:
    """The hub's metadata, with a reminder where the licence is still to be chosen."""
    reminder = "\n# license: choose one that base model, teacher and personas allow"
    return f"{front.to_yaml()}{'' if front.license else reminder}"


def _results(project: Project, model: str) -> dict[str, BenchmarkSummary]:
    return model_summary(project, model) if (project.evaluation(model) / "details.json").is_file() else {}


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


def _example(file: Path) -> list[str]:
    """The first messages of the first sample, up to its second turn, as JSON."""
    sample = next(read_jsonl(file, Sample), None)
    if sample is None:
        raise UserError("no_samples", f"{file}: holds no sample; run the stage quality_gate again.", file=file)
    lines = []
    for message in sample.conversations[:EXAMPLE_MESSAGES]:
        cut = " ..." if len(message.value) > SHOWN_CHARACTERS else ""
        shown = {"from": message.from_, "value": message.value[:SHOWN_CHARACTERS] + cut, "loss": message.loss}
        lines.append(json.dumps(shown, ensure_ascii=False))
    return lines
