"""Typed `params.yaml`: one section per stage, every key with its default; unknown keys and wrong types are refused."""

import re
from collections.abc import Hashable, Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from agentrefine.errors import UserError, unknown_name
from agentrefine.files import first_problem, parse_yaml, problem_code, problem_key, read_text
from agentrefine.params.base import Section, StoreAddress, TrackedPath, misfit, param
from agentrefine.params.evaluation import CHANCE, INSTALLED, EvaluationParams
from agentrefine.params.on_policy import OnPolicy
from agentrefine.params.quality_gate import QualityGateParams
from agentrefine.params.teacher import TeacherParams
from agentrefine.params.tuning import BASE, PLAIN, BaseModelParams, MaskPolicy, Mix, Name, TuningParams


class Personas(Section):
    """Who the games are written for."""

    path: TrackedPath = param("data/personas.jsonl", 'lines of {"persona": "..."}; a Persona Hub file works as it is')
    limit: PositiveInt | None = param(None, "use only the first N; null: all")


class SynthesisParams(Section):
    """How many games are asked for."""

    samples_per_persona: PositiveInt = param(6, "scripts (and games) asked for per persona")
    shard_size: PositiveInt = param(400, "samples per Prefect task, at least (docs/teacher.md)")


class VerificationParams(Section):
    """What the rules demand of a trajectory."""

    min_error_refine_turns: NonNegativeInt = param(2, "mistakes with a correction, at least")
    max_turns: Annotated[int, Field(gt=2)] = param(60, "DM and player turns together")


class RepairParams(Section):
    """How many calls a rejected game may cost."""

    call_budget: Annotated[int, Field(ge=2)] = param(4, "teacher calls per sample, script and trajectory together")


class ReportParams(Section):
    """What the report decides by. Without expert_only another model stands for it (docs/metrics.md)."""

    champion_benchmark: str = param("worlds_layouts", "the paired comparison on it decides which model is champion")
    baseline: Name = param("expert_only", "the model that the tuned ones are compared with")


class TrackingParams(Section):
    """Where MLflow keeps runs and models."""

    uri: StoreAddress = param("sqlite:///mlflow.db", "a file, or the address of a server; never a password")
    experiment: str = param("agentrefine", "the runs' experiment")
    registered_model: str = param("agentrefine-agent", "whose versions get the aliases")


ON_POLICY_POLICIES: tuple[MaskPolicy, ...] = ("correct_turns", "with_erroneous_loss")
"""The mask policies that suit a data set of a model's own games."""


class Params(Section):
    """The whole of params.yaml."""

    seed: int = param(7, "weights, order of samples, split, episodes; games follow from persona and sample number")
    personas: Personas = Personas()
    teacher: TeacherParams = TeacherParams()
    synthesis: SynthesisParams = SynthesisParams()
    verification: VerificationParams = VerificationParams()
    repair: RepairParams = RepairParams()
    quality_gate: QualityGateParams = QualityGateParams()
    base_model: BaseModelParams = BaseModelParams()
    mix: dict[Name, Mix] = param({}, "data sets with general chat among the games; docs/tuning.md shows how")
    on_policy: dict[Name, OnPolicy] = param({}, "data sets of a model's own mistakes; docs/on-policy.md shows how")
    tuning: TuningParams = TuningParams()
    evaluation: EvaluationParams = EvaluationParams()
    report: ReportParams = ReportParams()
    tracking: TrackingParams = TrackingParams()

    @model_validator(mode="after")
    def _sections_fit_together(self) -> Self:
        if BASE not in self.evaluation.models:
            sentence = "evaluation.models must hold base, which shows what tuning adds"
            raise misfit(sentence, key="evaluation.models", missing=BASE)
        if BASE in self.tuning.variants:
            sentence = "tuning.variants: base is the name of the untuned model; rename it"
            raise misfit(sentence, key="tuning.variants", name=BASE)
        if CHANCE in self.tuning.variants:
            sentence = "tuning.variants: chance is the name of a policy without a model; rename it"
            raise misfit(sentence, key="tuning.variants", name=CHANCE)
        for name, made in self.on_policy.items():
            if made.model not in self.tuning.variants:
                sentence = f"on_policy.{name}.model is {made.model}, which tuning.variants does not name; add it there"
                raise misfit(sentence, key=f"on_policy.{name}.model", name=made.model)
            for variant, chosen in self.tuning.variants.items():
                of_it = self.origin(chosen.data_set) == f"data/on_policy/{name}"
                if of_it and chosen.train_on not in ON_POLICY_POLICIES:
                    key = f"tuning.variants.{variant}.train_on"
                    sentence = (
                        f"{key}: {chosen.train_on} takes every turn that is not trained for a mistake, and a data set "
                        f"of on_policy also leaves out turns that are none; write {' or '.join(ON_POLICY_POLICIES)}"
                    )
                    raise misfit(sentence, key=key, value=chosen.train_on)
        missing = [m for m in self.evaluation.models if m != BASE and m not in self.tuning.variants]
        if missing:
            sentence = f"evaluation.models names {missing[0]}, which tuning.variants does not; add it there"
            raise misfit(sentence, key="evaluation.models", name=missing[0])
        played = self.evaluation.benchmarks
        compared = self.quality_gate.overlap_benchmarks
        named = [self.report.champion_benchmark]
        for listed in (played, compared):
            named += [] if listed == INSTALLED else listed
        for old in (name for name in named if name in RENAMED):
            sentence = f"the benchmark {old} is now called {RENAMED[old]}; write that"
            raise ValueError(sentence) from UserError("old_name", sentence, name=old, new=RENAMED[old])
        wanted, players = self.report.baseline, self.evaluation.players
        models = list(dict.fromkeys((*players, *self.tuning.variants, CHANCE)))
        if wanted not in (*models, ReportParams().baseline):
            unknown = unknown_name("report.baseline", "model", wanted, models, key="report.baseline")
            raise ValueError(f"{unknown}".removesuffix(".")) from unknown
        if wanted in (*self.tuning.variants, CHANCE) and wanted not in players:
            sentence = (
                f"report.baseline is {wanted}, which is not evaluated; add it to evaluation.models (chance: to "
                f"evaluation.references), or let report.baseline name one of {', '.join(players)}"
            )
            raise misfit(sentence, key="report.baseline", name=wanted, known=players)
        return self

    def origin(self, data_set: str) -> str:
        """The data set that the games of a mix, or of a mix of a mix, come from; any other one is its own origin."""
        sources = {f"data/mix/{name}": mix.data_set for name, mix in self.mix.items()}
        for _ in self.mix:  # so often at most, also where mixes read each other
            data_set = sources.get(data_set, data_set)
        return data_set

    @property
    def baseline(self) -> str:
        """The model that the tuned ones are compared with.

        It is `report.baseline`. Where that is the default and nothing has its name, it is the first variant that is
        tuned without mistakes (`without_refinement_data`), else the base; the base, too, where nothing else is tuned.
        """
        tuned = [model for model in self.evaluation.models if model != BASE]
        plain = [model for model in tuned if self.tuning.variants[model].train_on == PLAIN]
        wanted = self.report.baseline
        if wanted not in self.evaluation.players:
            wanted = plain[0] if plain else BASE
        return BASE if tuned == [wanted] else wanted


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but 1e-5 is a number, as DVC writes it, and no key stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping, of whose keys PyYAML would keep the last."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"the key {key.value} stands here a second time; put its values under the first"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


DVC_KEYS = (
    "personas.path",
    "mix",
    "on_policy",
    "tuning.variants",
    "tuning.launcher",
    "evaluation.references",
    "evaluation.models",
    "evaluation.endpoints",
)
"""The keys that dvc.yaml draws its graph from. DVC reads them itself, so they must stand in params.yaml."""

RENAMED = {"worlds_wording": "worlds_perturbed", "alfworld_wording": "alfworld_perturbed"}
"""The new name of a benchmark that is no longer known by the old one."""

RENAMED_KEYS = {
    "refinement": "repair",
    "teacher.refinement": "teacher.repair",
    "teacher.pilot_personas": "teacher.pilot.personas",
    "tuning.variants.*.loss": "train_on",
}
"""The new name of a dotted key that is no longer known by the old one; `*` is any name."""


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml. Raises UserError if the file is missing, or as in `parse_params`."""
    return parse_params(read_text(path, "run from the project's folder, or restore it from git"), path)


def parse_params(text: str, source: str | Path) -> Params:
    """Check the text of params.yaml; a key that it leaves out has its default.

    Args:
        text: YAML.
        source: where it is from, for messages.

    Raises:
        UserError: the text is not YAML, lacks one of `DVC_KEYS`, has an unknown key, or a value of a wrong type.
    """
    values = parse_yaml(text, source, _Loader)
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        code, problem, named = _problem(error)
        remedy = "Correct it; `agentrefine params --defaults` shows every key."
        raise UserError(code, f"{source}: {problem} {remedy}", **named | {"file": source}) from error
    for name in DVC_KEYS:
        if not _holds(values, name):
            message = (
                f"{source}: {name} is missing, and DVC draws the graph of the stages from it; add it as "
                "`agentrefine params --defaults` shows it."
            )
            raise UserError("missing_key", message, file=source, key=name)
    return params


def _holds(values: object, name: str) -> bool:
    for key in name.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def is_key(name: str) -> bool:
    """Whether `name` is a dotted key of params.yaml."""
    *sections, key = name.split(".")
    section = _section(sections)
    return section is not None and key in section.model_fields


def closest_key(name: str, values: object) -> str | None:
    """The dotted key that was probably meant by one that there is not; None where nothing is like it.

    `values` is what a params.yaml holds: the names of variants, mixes and endpoints are the user's.
    """
    known = {*_section_keys(Params), *_held_keys(values)}
    *_, last = name.split(".")
    elsewhere = [key for key in known if key.rpartition(".")[2] == last]
    return next(iter(get_close_matches(name, sorted(elsewhere or known), n=1, cutoff=0.0 if elsewhere else 0.6)), None)


def _section_keys(section: type[Section], place: str = "") -> Iterator[str]:
    parts = section.parts()
    for name in section.model_fields:
        if name in parts:
            yield from _section_keys(parts[name], f"{place}{name}.")
        else:
            yield f"{place}{name}"


def _held_keys(values: object, place: str = "") -> Iterator[str]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield f"{place}{name}"
            yield from _held_keys(value, f"{place}{name}.")


def _section(keys: Sequence[str]) -> type[Section] | None:
    section: type[Section] | None = Params
    for key in keys:
        section = section.parts().get(key) if section else None
    return section


def _problem(error: ValidationError) -> tuple[str, str, dict[str, object]]:
    """The code, sentence and names of what is wrong: an unknown key first, as a misspelt one may be a missing one too.

    Values are left out: an API key may stand in one.
    """
    findings = error.errors(include_url=False, include_input=False)
    for finding in findings:
        if finding["type"] == "extra_forbidden":
            *sections, name = map(str, finding["loc"])
            key = ".".join([*sections, name])
            for new in (new for old, new in RENAMED_KEYS.items() if fnmatch(key, old)):
                return "old_name", f"{key}: the key is now called {new}.", {"key": key, "new": new}
            known = _section(sections)
            missing = [str(f["loc"][-1]) for f in findings if f["type"] == "missing"]
            meant = next(iter(get_close_matches(name, known.model_fields if known else missing, n=1)), None)
            hint = f"; did you mean {meant}" if meant else ""
            return "unknown_key", f"{key}: there is no such key{hint}.", {"key": key, "meant": meant}
    place = problem_key(error)
    if findings[0]["type"] != "value_error":
        return problem_code(error), first_problem(error, with_value=False), {"key": place, "rule": findings[0]["type"]}
    fault = findings[0]["ctx"]["error"]
    cause = fault.__cause__ if isinstance(fault.__cause__, UserError) else UserError("bad_value", "")
    return cause.code, f"{place}: {fault}." if place else f"{fault}.", {"key": place} | cause.values
