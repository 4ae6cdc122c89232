"""The teacher's section of params.yaml."""

from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from agentrefine.params.base import KeyName, Section, Share, UserPath, bare_address, extra_keys

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

Role = Literal["script", "trajectory", "refinement"]
"""What a teacher is called for: a first script, its first game, or any call after a rejected answer."""

StructuredOutput = Literal["auto", "json_schema", "json_object", "text"]
"""How JSON is asked for; `auto` takes the first of the others that the endpoint is found to honour."""


def _teacher_address(address: str) -> str:
    if "://" not in address and address != OFFLINE:
        raise ValueError(f"this is no address; write one such as http://127.0.0.1:8000/v1, or {OFFLINE}")
    return address if address == OFFLINE else bare_address(address)


def _none_or_several(count: int) -> int:
    if count < 0 or count == 1:
        raise ValueError("one persona tells nothing of how personas differ; write 0 or at least 2")
    return count


class RoleParams(Section):
    """One role of the teacher: how its answers are sampled, and who takes it when that is not `teacher` itself.

    `extra_body` holds further keys of the request's body, such as `{reasoning_effort: low}`; one that is null leaves a
    key of ours out, such as `{seed: null}` for a server that does not know it.
    """

    temperature: Annotated[float, Field(ge=0, le=2)]
    max_tokens: Annotated[int, Field(gt=0)]
    base_url: Annotated[str, AfterValidator(_teacher_address)] | None = None
    model: str | None = None
    api_key_env: KeyName | None = None
    structured_output: StructuredOutput | None = None
    extra_body: Annotated[dict[str, Any], AfterValidator(extra_keys)] = Field(default_factory=dict)

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
    batch_calls: Annotated[int, Field(gt=0, le=50_000)]
    timeout_seconds: Annotated[float, Field(gt=0)]
    max_retries: Annotated[int, Field(ge=0)]
    concurrency: Annotated[int, Field(gt=0)]
    requests_per_minute: Annotated[int, Field(gt=0)] | None
    tokens_per_minute: Annotated[int, Field(gt=0)] | None
    processes: Annotated[int, Field(gt=0)]
    task_runner: Literal["prefect", "dask"]
    pilot_personas: Annotated[int, AfterValidator(_none_or_several)]
    max_cost: Annotated[float, Field(gt=0)] | None
    prices: UserPath | None
    script: RoleParams
    trajectory: RoleParams
    refinement: RoleParams
    offline: OfflineTeacher

    @model_validator(mode="after")
    def _processes_have_calls_to_make(self) -> Self:
        if self.processes > self.concurrency:
            raise ValueError("teacher.processes is above teacher.concurrency; each process has at least one call out")
        if self.processes > 1 and self.transport == "batch":
            raise ValueError("teacher.transport batch needs no more than one process; set teacher.processes to 1")
        return self

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
            extra_body=own.extra_body,
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
    extra_body: dict[str, Any]

    @property
    def is_offline(self) -> bool:
        """Whether the rule-based stand-in answers instead of a model."""
        return self.base_url == OFFLINE
