"""The teacher's section of params.yaml."""

from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from agentrefine.params.base import ExtraBody, KeyName, Section, Share, UserPath, bare_address, misfit, param

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
"""What happens to an answer of the simulated teacher on the wire."""

SIMULATED = "offline"
"""The `teacher.base_url` that starts the simulated teacher."""

Role = Literal["script", "trajectory", "repair"]
"""What a teacher is called for: a first script, its first game, or any call after a rejected answer."""

StructuredOutput = Literal["auto", "json_schema", "json_object", "text"]
"""How JSON is asked for; `auto` takes the first of the others that the endpoint is found to honour."""


def _teacher_address(address: str) -> str:
    if "://" not in address and address != SIMULATED:
        raise ValueError(f"this is no address; write one such as http://127.0.0.1:8000/v1, or {SIMULATED}")
    return address if address == SIMULATED else bare_address(address)


_TeacherAddress = Annotated[str, AfterValidator(_teacher_address)]


class RoleParams(Section):
    """One role of the teacher: how its answers are sampled, and who takes it when that is not `teacher` itself.

    `extra_body` holds further keys of the request's body, such as `{reasoning_effort: low}`; one that is null leaves a
    key of ours out, such as `{seed: null}` for a server that does not know it.
    """

    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    max_tokens: PositiveInt = 8192
    base_url: _TeacherAddress | None = None
    model: str | None = None
    api_key_env: KeyName | None = None
    structured_output: StructuredOutput | None = None
    extra_body: ExtraBody = Field({})

    @model_validator(mode="after")
    def _no_key_goes_to_another_host(self) -> Self:
        if self.base_url not in (None, SIMULATED) and self.api_key_env is None:
            raise misfit("base_url names another endpoint; name its api_key_env beside it", missing="api_key_env")
        return self


class SimulatedTeacher(Section):
    """How often the simulated teacher answers badly, as shares of its answers."""

    script_faults: Share = param(0.18, "a regex that rejects its own action, missing keys, broken JSON, ...")
    trajectory_faults: Share = param(
        0.36, "unflagged or invented errors, missing keys, cut off, unfinished, too few mistakes, ..."
    )
    wire_faults: Share = param(0.01, "answers that fail or break on their way, in one of these kinds")
    wire_fault_kinds: Annotated[list[WireFaultKind], Field(min_length=1)] = param(
        [kind for kind in get_args(WireFaultKind) if kind != "hang"], '"hang" is another one'
    )
    mistakes: Annotated[list[NonNegativeInt], Field(min_length=2, max_length=2)] = param(
        [2, 3], "corrected mistakes of a game, at least and at most; some take two or three tries"
    )

    @model_validator(mode="after")
    def _mistakes_are_a_range(self) -> Self:
        if self.mistakes[0] > self.mistakes[1]:
            raise ValueError("teacher.offline.mistakes must be [least, most]; put the smaller number first")
        return self


class PilotParams(Section):
    """A few personas whose games are finished before the rest is asked for."""

    personas: NonNegativeInt = param(8, "how many; the cost of all is forecast from them; 0: no pilot")
    min_kept_share: Share = param(0.2, "of their games; where fewer are kept, on_low decides")
    on_low: Literal["ask", "continue", "stop"] = param(
        "ask", "at the terminal, or stop where there is none; or continue; or stop. If none is kept, the run stops"
    )


class TeacherParams(Section):
    """Who writes scripts and trajectories, how the calls are sent, and what they may cost."""

    base_url: _TeacherAddress = param(
        SIMULATED, '"offline" starts the simulated teacher; else any OpenAI-compatible URL'
    )
    model: str = param("offline-teacher", "its name there")
    api_key_env: KeyName = param("OPENAI_API_KEY", "the environment variable that holds the key; never the key itself")
    structured_output: StructuredOutput = param(
        "auto", "json_schema, json_object or text; auto: the first of them that the endpoint honours"
    )
    script: RoleParams = param(
        RoleParams(max_tokens=4096),
        "the first script of a sample; each role may name an endpoint of its own (docs/teacher.md)",
    )
    trajectory: RoleParams = param(RoleParams(), "its first game")
    repair: RoleParams = param(RoleParams(), "every call after a rejected answer")
    transport: Literal["chat", "batch"] = param("chat", "or batch: the Batch API, within 24 hours at half the price")
    batch_calls: Annotated[int, Field(gt=0, le=50_000)] = param(
        20_000, "of one batch at most; fewer where the provider limits the tokens in its queue"
    )
    timeout_seconds: PositiveFloat = param(120.0, "of one try, from the request to the last byte")
    max_retries: NonNegativeInt = param(6, "of one call, on 429, 5xx, time-outs and broken connections")
    concurrency: PositiveInt = param(16, "calls in flight at most, per endpoint; fewer after 429 and time-outs")
    requests_per_minute: PositiveInt | None = param(None, "limit of each endpoint, if known, of all processes together")
    tokens_per_minute: PositiveInt | None = param(None, "the same, prompts and answers together")
    processes: PositiveInt = param(1, "that ask side by side; more when one core cannot send fast enough")
    task_runner: Literal["prefect", "dask"] = param(
        "prefect", "runs the processes; or dask (pip install 'agentrefine[dask]')"
    )
    pilot: PilotParams = param(PilotParams(), "a few personas whose games are finished before the rest is asked for")
    max_cost: PositiveFloat | None = param(None, "US dollars; the stage stops before a call could take it beyond")
    prices: UserPath | None = param(None, "your own file in the form of agentrefine/llm/prices.yaml")
    offline: SimulatedTeacher = SimulatedTeacher()

    @model_validator(mode="after")
    def _processes_have_calls_to_make(self) -> Self:
        if self.processes > self.concurrency:
            sentence = "teacher.processes is above teacher.concurrency; each process has at least one call out"
            raise misfit(sentence, key="teacher.processes", most=self.concurrency)
        if self.processes > 1 and self.transport == "batch":
            sentence = "teacher.transport batch needs no more than one process; set teacher.processes to 1"
            raise misfit(sentence, key="teacher.processes", most=1)
        return self

    def role(self, role: Role) -> "TeacherRole":
        """A role with all that it does not name itself taken from the teacher."""
        own: RoleParams = {"script": self.script, "trajectory": self.trajectory, "repair": self.repair}[role]
        shared = self.model_dump(include={"base_url", "model", "api_key_env", "structured_output"})
        return TeacherRole(**shared | {name: value for name, value in own if value not in (None, "")})

    @property
    def roles(self) -> "dict[Role, TeacherRole]":
        """All roles."""
        return {role: self.role(role) for role in get_args(Role)}

    @property
    def uses_simulated_teacher(self) -> bool:
        """Whether the simulated teacher takes any role."""
        return any(role.is_simulated for role in self.roles.values())


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
    def is_simulated(self) -> bool:
        """Whether the simulated teacher answers instead of a model."""
        return self.base_url == SIMULATED
