"""Typed `params.yaml`: one section per stage; unknown keys and wrong types are refused."""

import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentrefine.errors import UserError
from agentrefine.files import first_problem

Share = Annotated[float, Field(ge=0, le=1)]
Severity = Literal["critical", "warning"]
"""What a broken threshold does: critical stops the pipeline, warning is printed (Great Expectations' names)."""

WireFaultKind = Literal[
    "too_many_requests",
    "server_error",
    "overloaded",
    "reset",
    "hang",
    "slow_body",
    "wrong_content_type",
    "truncated_body",
]
"""What happens to an answer of the offline teacher on the wire."""

OFFLINE = "offline"
"""The `teacher.base_url` that starts the rule-based stand-in."""

Variant = Literal["refinement", "with_erroneous_loss", "without_refinement_loss", "without_refinement_data"]
"""A tuned model, named after its loss (paper, section 3.3 and the ablations of section 4)."""

BASE = "base"
"""The name of the untuned model among the models that are evaluated."""


def _bare_address(address: str) -> str:
    """Refuse an address that holds a key: it would be told in errors and kept in the journal and in dvc.lock."""
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:  # its own message would repeat the address
        usable = False
    if not usable:
        raise ValueError("this is no address; write one such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.query:
        raise ValueError(
            "an address must hold no user, password or query; put the key into the environment variable that "
            "api_key_env names, and leave scheme, host, port and path"
        )
    return address


def _teacher_address(address: str) -> str:
    return address if address == OFFLINE else _bare_address(address)


def _none_or_several(count: int) -> int:
    if count < 0 or count == 1:
        raise ValueError("one persona tells nothing of how personas differ; write 0 or at least 2")
    return count


class Section(BaseModel):
    """A part of params.yaml."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Personas(Section):
    """Who the games are written for."""

    path: str
    limit: Annotated[int, Field(gt=0)] | None


Role = Literal["script", "trajectory", "refinement"]
"""What a teacher is called for: a first script, its first game, or any call after a rejected answer."""

StructuredOutput = Literal["auto", "json_schema", "json_object", "text"]
"""How JSON is asked for; `auto` takes the first of the others that the endpoint is found to honour."""

KeyName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class RoleParams(Section):
    """One role of the teacher: how its answers are sampled, and who takes it when that is not `teacher` itself."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    max_tokens: Annotated[int, Field(gt=0)]
    base_url: Annotated[str, AfterValidator(_teacher_address)] | None = None
    model: str | None = None
    api_key_env: KeyName | None = None
    structured_output: StructuredOutput | None = None

    @model_validator(mode="after")
    def _no_key_goes_to_another_host(self) -> Self:
        if self.base_url not in (None, OFFLINE) and self.api_key_env is None:
            raise ValueError("base_url names another endpoint; name its api_key_env beside it")
        return self


class OfflineTeacher(Section):
    """How often the rule-based stand-in answers badly, as shares of its answers."""

    script_faults: Share
    trajectory_faults: Share
    wire_faults: Share
    wire_fault_kinds: Annotated[list[WireFaultKind], Field(min_length=1)]
    mistakes: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]

    @model_validator(mode="after")
    def _mistakes_are_a_range(self) -> Self:
        if self.mistakes[0] > self.mistakes[1]:
            raise ValueError("teacher.offline.mistakes must be [least, most]; put the smaller number first")
        return self


class TeacherParams(Section):
    """Who writes scripts and trajectories, how the calls are sent, and what they may cost.

    `requests_per_minute` and `tokens_per_minute` are ceilings of each endpoint, for all processes together; tokens
    count prompts and answers. `max_cost` is in US dollars.
    """

    base_url: Annotated[str, AfterValidator(_teacher_address)]
    model: str
    api_key_env: KeyName
    structured_output: StructuredOutput
    transport: Literal["chat", "batch"]
    timeout_seconds: Annotated[float, Field(gt=0)]
    max_retries: Annotated[int, Field(ge=0)]
    concurrency: Annotated[int, Field(gt=0)]
    requests_per_minute: Annotated[int, Field(gt=0)] | None
    tokens_per_minute: Annotated[int, Field(gt=0)] | None
    processes: Annotated[int, Field(gt=0)]
    task_runner: Literal["prefect", "dask"]
    pilot_personas: Annotated[int, AfterValidator(_none_or_several)]
    max_cost: Annotated[float, Field(gt=0)] | None
    prices: str | None
    script: RoleParams
    trajectory: RoleParams
    refinement: RoleParams
    offline: OfflineTeacher

    def role(self, role: Role) -> "TeacherRole":
        """A role with all that it does not name itself taken from the teacher."""
        own: RoleParams = {"script": self.script, "trajectory": self.trajectory, "refinement": self.refinement}[role]
        return TeacherRole(
            base_url=own.base_url or self.base_url,
            model=own.model or self.model,
            api_key_env=own.api_key_env or self.api_key_env,
            structured_output=own.structured_output or self.structured_output,
            temperature=own.temperature,
            max_tokens=own.max_tokens,
        )

    @property
    def roles(self) -> "dict[Role, TeacherRole]":
        """All roles."""
        return {role: self.role(role) for role in get_args(Role)}

    @property
    def uses_offline(self) -> bool:
        """Whether the rule-based stand-in takes any role."""
        return any(role.is_offline for role in self.roles.values())


class TeacherRole(NamedTuple):
    """Who takes a role and how its answers are sampled. See `TeacherParams`."""

    base_url: str
    model: str
    api_key_env: str
    structured_output: StructuredOutput
    temperature: float
    max_tokens: int

    @property
    def is_offline(self) -> bool:
        """Whether the rule-based stand-in answers instead of a model."""
        return self.base_url == OFFLINE


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


class Requirement(Section):
    """What must hold for at least the share `mostly` of the trajectories."""

    mostly: Share = 1.0
    severity: Severity


class Band(Section):
    """The values, ends included, that a number may take."""

    min: float | None = None
    max: float | None = None
    severity: Severity

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("a band needs `min`, `max` or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` ({self.min}) is above `max` ({self.max})")
        return self


class MostlyBand(Band):
    """A band that at least the share `mostly` of the trajectories must keep to."""

    mostly: Share = 1.0


class TrajectoryThresholds(Section):
    """One threshold per column of the feature table (`agentrefine.quality.features.FeatureRow`)."""

    id: Requirement
    format_problem: Requirement
    broken_rule: Requirement
    completed: Requirement
    copy_of: Requirement
    near_duplicate_of: Requirement
    script_near_duplicate_of: Requirement
    held_out_overlap: Requirement
    error_turn_ratio: MostlyBand
    error_refine_turns: MostlyBand
    corrected_share: MostlyBand
    player_turns: MostlyBand
    tokens: MostlyBand


class DataSetThresholds(Section):
    """One threshold per feature of the whole data set (`agentrefine.quality.features.DataSetFeatures`)."""

    trajectories: Band
    personas: Band
    kept_share: Band
    kept_persona_share: Band
    error_turn_ratio: Band
    corrected_share: Band
    rarest_error_share: Band
    action_entropy: Band
    distinct_actions: Band
    distinct_goal_share: Band


class Thresholds(Section):
    """What the gate demands of each trajectory and of the data set as a whole."""

    trajectory: TrajectoryThresholds
    data_set: DataSetThresholds


class QualityGateParams(Section):
    """What a data set must be before a model is tuned on it."""

    validation_share: Annotated[float, Field(gt=0, lt=1)]
    tokenizer: str
    near_duplicate_similarity: Annotated[float, Field(ge=0.5, le=0.98)]
    thresholds: Thresholds


class TinyModel(Section):
    """The base model that is made on the spot: a Llama with tied embeddings, by transformers' names where it has one.

    The learning rate is AdamW's (embeddings and norms), `muon_learning_rate` is Muon's (hidden matrices).
    """

    hidden_size: Annotated[int, Field(gt=0)]
    intermediate_size: Annotated[int, Field(gt=0)]
    layers: Annotated[int, Field(gt=0)]
    heads: Annotated[int, Field(gt=0)]
    max_length: Annotated[int, Field(gt=0)]
    pretraining_tokens: Annotated[int, Field(gt=0)]
    batch_tokens: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    muon_learning_rate: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError("hidden_size must be an even multiple of heads")
        return self


class BaseModelParams(Section):
    """The model that is tuned.

    `chat_template` names a jinja file that replaces the tokenizer's own template; null keeps that one, or takes ours
    where there is none.
    """

    path: str
    chat_template: str | None
    tiny: TinyModel

    @property
    def is_tiny(self) -> bool:
        """Whether the base is made here instead of loaded."""
        return self.path == "tiny"


class LoraParams(Section):
    """Low-rank adaptation, by PEFT's names."""

    rank: Annotated[int, Field(gt=0)]
    alpha: Annotated[int, Field(gt=0)]
    dropout: Share
    target_modules: str | list[str]


class TuningParams(Section):
    """How a variant is tuned, by TRL's and transformers' names where they have one.

    `muon_learning_rate` null means AdamW for every parameter. `decay_share` is the share of the steps over which
    `warmup_stable_decay` decays. `max_length` counts tokens: whole turns are dropped from the end of longer games.
    """

    variants: Annotated[list[Variant], Field(min_length=1)]
    method: Literal["full", "lora"]
    lora: LoraParams
    epochs: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    muon_learning_rate: Annotated[float, Field(gt=0)] | None
    lr_scheduler_type: Literal["warmup_stable_decay", "linear", "cosine", "constant_with_warmup"]
    decay_share: Share
    warmup_steps: Annotated[int, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    batch_tokens: Annotated[int, Field(gt=0)]
    gradient_accumulation_steps: Annotated[int, Field(gt=0)]
    cpu_processes: Annotated[int, Field(gt=0)]
    activation_checkpointing: bool
    packing: bool
    max_length: Annotated[int, Field(gt=0)]
    precision: Literal["auto", "fp32", "bf16"]


class Endpoint(Section):
    """A model behind an OpenAI-compatible endpoint, evaluated for comparison."""

    base_url: Annotated[str, AfterValidator(_bare_address)]
    model: str
    api_key_env: KeyName


class EvaluationParams(Section):
    """Who plays what, and for how long."""

    endpoints: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], Endpoint]
    models: Annotated[list[Literal["base"] | Variant], Field(min_length=1)]
    benchmarks: Annotated[list[str], Field(min_length=1)]
    episodes: Annotated[int, Field(gt=0)]
    max_steps: Annotated[int, Field(gt=0)]
    max_new_tokens: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]


class ReportParams(Section):
    """What the report decides by."""

    champion_benchmark: str


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
    tuning: TuningParams
    evaluation: EvaluationParams
    report: ReportParams
    tracking: TrackingParams

    @model_validator(mode="after")
    def _models_are_tuned(self) -> Self:
        if BASE not in self.evaluation.models:
            raise ValueError("evaluation.models must hold base, which the others are compared with")
        missing = [m for m in self.evaluation.models if m != BASE and m not in self.tuning.variants]
        if missing:
            raise ValueError(f"evaluation.models names {missing[0]}, which tuning.variants does not; add it there")
        clash = [name for name in self.evaluation.endpoints if name in self.evaluation.models]
        if clash:
            raise ValueError(f"evaluation.endpoints.{clash[0]} has the name of one of evaluation.models; rename it")
        if self.report.champion_benchmark not in self.evaluation.benchmarks:
            raise ValueError("report.champion_benchmark must be one of evaluation.benchmarks")
        return self


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
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: no such file; run from the project's folder, or restore it from git.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8; save the file as UTF-8.") from error
    try:
        values = yaml.load(text, _Loader)  # noqa: S506  (a SafeLoader)
    except yaml.MarkedYAMLError as error:  # its text quotes the line, in which a key may stand
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: not valid YAML ({line}{error.problem}); correct it.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}); correct it.") from error
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problem = first_problem(error, with_value=False)  # a key may stand in it
        raise UserError(f"{path}: {problem} Correct it; `git show HEAD:params.yaml` shows every key.") from error
