"""A small project folder as the stages leave it, made by hand, for the tests of the report and of tracking."""

import json
from collections.abc import Sequence
from pathlib import Path

from agentrefine.evaluation.episodes import Episode, EpisodeStep
from agentrefine.evaluation.metrics import summarise
from agentrefine.evaluation.metrics.summary import write_summaries
from agentrefine.files import write_json, write_jsonl, write_text
from agentrefine.params import Params, load_params
from tests.helpers.paths import ROOT

BENCHMARKS = ("worlds_layouts", "babyai")

SOLVED = {"chance": (2, 3), "base": (1, 0), "expert_only": (4, 0), "refinement": (13, 0)}
"""How many of 20 episodes of each benchmark every model solves."""


def params_for(folder: Path) -> Params:
    """The repository's params.yaml, with two benchmarks and a tracking store in `folder`."""
    values = load_params(ROOT / "params.yaml").model_dump()
    values["evaluation"]["benchmarks"] = list(BENCHMARKS)
    values["tracking"]["uri"] = f"sqlite:///{folder}/mlflow.db"
    return Params.model_validate(values)


def two_models_for(folder: Path) -> Params:
    """The same with base and refinement alone."""
    values = params_for(folder).model_dump()
    values["evaluation"] |= {"references": [], "models": ["base", "refinement"]}
    del values["tuning"]["variants"]["expert_only"]
    return Params.model_validate(values)


def step(action: str, *, valid: bool, progress: float) -> EpisodeStep:
    return EpisodeStep(
        thought="look",
        action=action,
        reply=f"Thought: look\nAction: {action}",
        observation="You see <b>a lamp</b>." if valid else "Error: no such action.",
        valid=valid,
        format_error=False,
        progress=progress,
        prompt_tokens=10,
        completion_tokens=4,
        turns_cut=0,
    )


def episodes(model: str, solved: int, of: int = 20, benchmark: str = "worlds_layouts") -> list[Episode]:
    """Episodes of which the first `solved` are solved, in two steps; in all others an error is made twice."""
    played = []
    for number in range(of):
        success = number < solved
        steps = (
            [step("take lamp", valid=True, progress=0.5), step("put lamp", valid=True, progress=1.0)]
            if success
            else [step("fly", valid=False, progress=0.0), step("fly", valid=False, progress=0.0)]
        )
        played.append(
            Episode(
                id=f"{benchmark}-{number:03}",
                benchmark=benchmark,
                task="fetch",
                seed=number,
                variant="",
                difficulty="",
                model=model,
                model_digest=f"digest of {model}",
                goal="Fetch the lamp.",
                first_observation="You are in a hall.",
                steps=steps,
                success=success,
                progress=1.0 if success else 0.0,
                stop="solved" if success else "step limit",
            )
        )
    return played


TRAIN_ON = {"expert_only": "without_refinement_data", "refinement": "correct_turns"}

CALLS = {
    "unanswered": 0,
    "calls_with_estimated_tokens": 0,
    "prompt_tokens": 2_000_000,
    "cached_tokens": 0,
    "completion_tokens": 500_000,
}

NOT_INSTALLED = "the benchmark sciworld needs the package scienceworld: pip install it."


def write_evaluation(root: Path, model: str, played: Sequence[Episode]) -> Path:
    folder = root / "data" / "evaluation" / model
    write_jsonl(folder / "episodes.jsonl", played)
    summaries = summarise(played)
    write_summaries(folder, summaries)
    write_json(folder / "timing.json", dict.fromkeys(summaries, 10.0))
    notes = {
        "progress": dict.fromkeys(summaries, "share of doors that are open"),
        "absent": {"sciworld": NOT_INSTALLED},
        "agentboard": [],
    }
    write_json(folder / "benchmarks.json", notes)
    return folder


def write_results(root: Path) -> None:
    """What a run of all stages leaves.

    Of 20 layouts chance solves 2, base 1, expert only 4, refinement 13; of BabyAI chance solves 3, no other any.
    """
    counts = {
        "synthesis": {
            "personas": 40,
            "samples": 240,
            "scripts": 240,
            "trajectories": 220,
            **CALLS,
            "calls": 460,
            "cost_usd": 2.75,
            "prompt_tokens": 1_234_567,
            "completion_tokens": 765_432,
        },
        "verification": {"judged": 460, "passed": 300, "rejected": 160, "by_rule": {"not_json": 90, "no_end": 70}},
        "repair": {
            "personas": 40,
            "personas_kept": 40,
            "personas_dropped": 0,
            "samples": 240,
            "kept": 231,
            "dropped": 9,
            "dropped_by_rule": {"not_json": 9},
            **CALLS,
            "calls": 180,
            "cost_usd": 1.5,
            "with_synthesis": {
                **CALLS,
                "calls": 640,
                "cost_usd": 4.25,
                "per_persona": {"calls": 16.0, "tokens": 64_000.0, "cost_usd": 0.10625},
                "per_kept_trajectory": {"calls": 2.77, "tokens": 11_082.0, "cost_usd": 0.0184},
            },
        },
    }
    for stage, values in counts.items():
        write_json(root / "data" / stage / "metrics.json", values)
    finding = {
        "scope": "data_set",
        "column": "action_entropy",
        "expectation": "expect_column_values_to_be_between",
        "severity": "warning",
        "success": False,
        "expected": "at least 2",
        "observed": "1.5",
        "share": None,
        "example_ids": [],
        "example_values": [],
    }
    met = {**finding, "column": "kept_share", "success": True}
    write_json(
        root / "reports" / "quality_gate" / "result.json",
        {"passed": True, "data_set": {"trajectories": 231.0}, "overlap": {}, "findings": [finding, met]},
    )
    write_text(root / "reports" / "quality_gate" / "summary.md", "# Quality gate\n")
    for variant in ("expert_only", "refinement"):
        write_tuning(root / "reports" / "tuning" / variant, variant)
    for model, (layouts, babyai) in SOLVED.items():
        played = [*episodes(model, layouts), *episodes(model, babyai, benchmark="babyai")]
        write_evaluation(root, model, played)


def write_tuning(folder: Path, variant: str) -> None:
    """The figures of a tuning."""
    figures = {
        "train_on": TRAIN_ON[variant],
        "parameters": 940_000,
        "trainable_parameters": 940_000,
        "rendering": {"samples": 225},
        "steps": 30,
        "tokens": 400_000,
        "trained_tokens": 124_000,
        "train_loss": 0.4321,
        "validation_loss_before": 2.5,
        "validation_loss": 0.5,
    }
    write_json(folder / "metrics.json", figures)
    rows = "".join(f"{n},{n * 1024},{3.0 / n},0.001\n" for n in range(1, 31))
    (folder / "loss_curve.csv").write_text(f"step,tokens,loss,learning_rate\n{rows}", encoding="utf-8")
    (folder / "validation_curve.csv").write_text("step,tokens,loss\n0,0,3.5\n10,5000,1.2\n", encoding="utf-8")


def write_model(folder: Path, weights: bytes) -> Path:
    """A folder that looks like a model's."""
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "inner" / "config.json").write_text(json.dumps({"hidden_size": 8}), encoding="utf-8")
    return folder
