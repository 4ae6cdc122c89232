"""Typed `params.yaml`: one section per stage; unknown keys and wrong types are refused."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from agentrefine.errors import UserError
from agentrefine.files import first_problem, parse_yaml, read_text
from agentrefine.params.base import Section, TrackedPath
from agentrefine.params.evaluation import CHANCE, INSTALLED, EvaluationParams
from agentrefine.params.quality_gate import QualityGateParams
from agentrefine.params.teacher import TeacherParams
from agentrefine.params.tuning import BASE, PLAIN, BaseModelParams, Mix, Name, TuningParams


class Personas(Section):
    """Who the games are written for."""

    path: TrackedPath
    limit: Annotated[int, Field(gt=0)] | None


class SynthesisParams(Section):
    """How many games are asked for."""

    samples_per_persona: Annotated[int, Field(gt=0)]
    shard_size: Annotated[int, Field(gt=0)]


class VerificationParams(Section):
    """What the rules demand of a trajectory."""

    min_error_refine_turns: Annotated[int, Field(ge=0)]
    max_turns: Annotated[int, Field(gt=2)]


class RefinementParams(Section):
    """How long a rejected game is worked on."""

    call_budget: Annotated[int, Field(ge=2)]


class ReportParams(Section):
    """What the report decides by.

    The paired comparison with `baseline` on `champion_benchmark` decides which model is champion. `Params.baseline` is
    the model that stands for it where the variants have no such name.
    """

    champion_benchmark: str
    baseline: Name


class TrackingParams(Section):
    """Where MLflow keeps runs and models."""

    uri: str
    experiment: str
    registered_model: str


class Params(Section):
    """The whole of params.yaml."""

    seed: int
    personas: Personas
    teacher: TeacherParams
    synthesis: SynthesisParams
    verification: VerificationParams
    refinement: RefinementParams
    quality_gate: QualityGateParams
    base_model: BaseModelParams
    mix: dict[Name, Mix]
    tuning: TuningParams
    evaluation: EvaluationParams
    report: ReportParams
    tracking: TrackingParams

    @model_validator(mode="after")
    def _models_are_tuned(self) -> Self:
        if BASE not in self.evaluation.models:
            raise ValueError("evaluation.models must hold base, which shows what tuning adds")
        if BASE in self.tuning.variants:
            raise ValueError("tuning.variants: base is the name of the untuned model; rename it")
        if CHANCE in self.tuning.variants:
            raise ValueError("tuning.variants: chance is the name of a policy without a model; rename it")
        missing = [m for m in self.evaluation.models if m != BASE and m not in self.tuning.variants]
        if missing:
            raise ValueError(f"evaluation.models names {missing[0]}, which tuning.variants does not; add it there")
        played = self.evaluation.benchmarks
        if played != INSTALLED and self.report.champion_benchmark not in played:
            raise ValueError(
                f"report.champion_benchmark is {self.report.champion_benchmark}, which evaluation.benchmarks does not "
                "name; add it there, or let one of those decide"
            )
        return self

    @model_validator(mode="after")
    def _baseline_is_evaluated(self) -> Self:
        wanted, players = self.report.baseline, self.evaluation.players
        if wanted in (*self.tuning.variants, CHANCE) and wanted not in players:
            raise ValueError(
                f"report.baseline is {wanted}, which is not evaluated; add it to evaluation.models (chance: to "
                f"evaluation.references), or let report.baseline name one of {', '.join(players)}"
            )
        return self

    @property
    def baseline(self) -> str:
        """The model that the tuned ones are compared with.

        It is `report.baseline`. Where nothing that is evaluated has that name, it is the first variant that is tuned
        without mistakes (`without_refinement_data`), else the base; the base, too, where nothing else is tuned.
        """
        tuned = [model for model in self.evaluation.models if model != BASE]
        plain = [model for model in tuned if self.tuning.variants[model].loss == PLAIN]
        wanted = self.report.baseline
        if wanted not in self.evaluation.players:
            wanted = plain[0] if plain else BASE
        return BASE if tuned == [wanted] else wanted


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but with 1e-5 as a number, as in YAML 1.2 and as DVC writes it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        UserError: the file is missing, is not YAML, lacks a key, has an unknown one, or a value of a wrong type.
    """
    return parse_params(read_text(path, "run from the project's folder, or restore it from git"), str(path))


def parse_params(text: str, source: str) -> Params:
    """Check the text of params.yaml.

    Args:
        text: YAML.
        source: where it is from, for messages.

    Raises:
        UserError: the text is not YAML, lacks a key, has an unknown one, or a value of a wrong type.
    """
    values = parse_yaml(text, source, _Loader)
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        remedy = "Correct it; `git show HEAD:params.yaml` shows every key."
        raise UserError(f"{source}: {_problem(error)} {remedy}") from error


def _problem(error: ValidationError) -> str:
    """What is wrong, in a sentence: an unknown key before all else, as a misspelt one is a missing one too.

    Values are left out: an API key may stand in one.
    """
    findings = error.errors(include_url=False, include_input=False)
    for finding in findings:
        if finding["type"] == "extra_forbidden":
            *section, name = finding["loc"]
            missing = [str(f["loc"][-1]) for f in findings if f["type"] == "missing" and [*f["loc"][:-1]] == section]
            meant = get_close_matches(str(name), missing, n=1)
            suggestion = f"; did you mean {meant[0]}" if meant else ""
            return f"{'.'.join(str(part) for part in finding['loc'])}: there is no such key{suggestion}."
    if findings[0]["type"] == "value_error":
        said = str(findings[0]["ctx"]["error"])
        place = ".".join(str(part) for part in findings[0]["loc"])
        return f"{place}: {said}." if place else f"{said}."
    return first_problem(error, with_value=False)
