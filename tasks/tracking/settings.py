"""What was set: the parameters that MLflow shows of a run, and the whole of params.yaml without credentials."""

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import yaml

from agentrefine.files import short_hash
from agentrefine.params import Params
from agentrefine.params.evaluation import WHO_PLAYS
from agentrefine.params.seeds import without_seed
from agentrefine.params.tuning import BASE
from tasks.tracking.store import without_credentials

NONE = "-"
"""The value of a parameter that does not apply to a run: its key is there, so that runs can be compared by it."""

SHARED = (
    "seed",
    "base_model.path",
    "teacher.model",
    "personas.path",
    "personas.limit",
    "synthesis.samples_per_persona",
)
"""Parameters of every run."""

TUNED = (
    "method", "epochs", "tokens", "learning_rate", "muon_learning_rate", "weight_decay", "lr_scheduler_type",
    "warmup_steps", "max_grad_norm", "batch_tokens", "gradient_accumulation_steps", "max_length", "packing",
    "precision", "cpu_processes", "cpu_threads", "early_stopping", "keep_best",
)  # fmt: skip
"""Parameters of the section `tuning`."""

LORA = ("r", "lora_alpha")
"""Parameters of the section `tuning.lora`, where the method uses it."""

WITHOUT_EFFECT = ("tuning.variants", "tuning.launcher", "tuning.checkpoint", "on_policy")
"""Beginnings of the keys that change no model of a pipeline: variants and their own games are what it makes."""


def run_parameters(params: Params, model: str) -> dict[str, str]:
    """What decides a model, by the keys of params.yaml: the same keys for every model, `-` where one does not apply."""
    given = flatten(params, ())
    variant = params.tuning.variants.get(model)
    uses_lora = variant is not None and params.tuning.method != "full"
    found = {key: given[key] for key in SHARED} | {"seed": str(seed_of(params, model))}
    found["train_on"] = variant.train_on if variant else NONE
    found["data_set"] = variant.data_set if variant else NONE
    for key in TUNED:
        value = params.tuning.model_dump(mode="json")[key]
        found[f"tuning.{key}"] = (value if isinstance(value, str) else json.dumps(value)) if variant else NONE
    found |= {f"tuning.lora.{key}": given[f"tuning.lora.{key}"] if uses_lora else NONE for key in LORA}
    return found


def seed_of(params: Params, model: str) -> int:
    """The seed that a model was tuned with, the run's own where it has none."""
    variant = params.tuning.variants.get(model)
    return params.seed if variant is None or variant.seed is None else variant.seed


def evaluation_settings(params: Params) -> dict[str, str]:
    """By which rules a model plays: the seed and the section `evaluation` without who is evaluated."""
    who = tuple(f"evaluation.{key}" for key in WHO_PLAYS)
    given = flatten(params, ("seed", "evaluation"))
    return {key: value for key, value in given.items() if not key.startswith(who)}


def pipeline_key(params: Params) -> str:
    """Equal for runs of the pipeline that make the same models."""
    given = flatten(params, set(Params.model_fields) - {"evaluation", "report", "tracking"})
    return short_hash(*(f"{key}={value}" for key, value in given.items() if not key.startswith(WITHOUT_EFFECT)))


def base_label(params: Params) -> str:
    """The base model as a name shows it: the last part of its path, `tiny` for the one that is made here."""
    path = PurePosixPath(params.base_model.path)
    return path.stem if path.suffix == ".gguf" else path.name


def teacher_labels(params: Params) -> list[str]:
    """The teachers of all roles as names show them; params.yaml calls the simulated one `offline`."""
    return sorted({"simulated teacher" if role.is_simulated else role.model for role in params.teacher.roles.values()})


def model_label(params: Params, model: str) -> str:
    """A model as its run is named: `refinement / tiny / seed 7`."""
    variant = params.tuning.variants.get(model)
    if variant is not None:
        return f"{without_seed(model, variant)} / {base_label(params)} / seed {seed_of(params, model)}"
    return f"{model} / {base_label(params)} / seed {params.seed}" if model == BASE else f"{model} / seed {params.seed}"


def resolved(params: Params) -> str:
    """All parameters as YAML, defaults filled in, without credentials."""
    return yaml.safe_dump(_clean(params.model_dump(mode="json")), sort_keys=False, width=120)


def flatten(params: Params, sections: Sequence[str] | set[str]) -> dict[str, str]:
    """Parameters of some sections, or of all, by their dotted names, lists and null as JSON, without credentials."""
    return dict(_flat(params.model_dump(mode="json", include=set(sections) if sections else None), ""))


def _flat(value: object, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, without_credentials(value) if isinstance(value, str) else json.dumps(value)


def _clean(value: object) -> object:
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner) for inner in value]
    return without_credentials(value) if isinstance(value, str) else value
