"""The contract between benchmarks and the agent that plays them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field


class SimulatorError(Exception):
    """A simulator died or stopped answering: the episode ends as an environment error, the others play on."""


class NoSolutionError(Exception):
    """A benchmark has no solution of an episode; the message says why."""


class UnlistedActionsError(Exception):
    """A simulator does not list the actions that are possible; the message says why."""


class EpisodeSpec(BaseModel):
    """Everything that is needed to make one episode again.

    Attributes:
        id: unique within the benchmark; the same episode has the same id for every model, so results can be paired.
        benchmark: the benchmark's name.
        task: the task type (a family, a level), for breakdowns and clusters.
        seed: the layout's seed.
        variant: what else identifies it, such as a theme; empty when nothing does.
        difficulty: `easy`, `hard`, or empty where the benchmark does not say.
        perturbation: how the actions are perturbed, where the same world is played with several perturbations to see
            how robust a model is; `id` is then the world's, a slash and its name. Empty elsewhere. `wording` in files.
        attempt: which of several plays of the same episode; they differ where replies are drawn by chance.

    Example: {"id": "babyai.GoToRedBall.1234", "benchmark": "babyai", "task": "GoToRedBall", "seed": 1234, ...}
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    id: str
    benchmark: str
    task: str
    seed: int
    variant: str = ""
    difficulty: str = ""
    perturbation: str = Field("", alias="wording")
    attempt: int = 0

    @property
    def key(self) -> str:
        """Identifies the play in one run."""
        return f"{self.id}#{self.attempt}" if self.attempt else self.id


class StepResult(NamedTuple):
    """What the environment answers to one action.

    Attributes:
        observation: what the agent sees next.
        progress: best share of sub-goals reached so far, in [0, 1].
        success: the goal is fully reached.
        done: the episode is over, whether solved or not.
        valid: the action was known, well-formed and possible now (AgentBoard's grounding).
        fault: it was possible, and the world failed all the same: no mistake of the agent's. Nothing has changed.
        error_kind: what kind of error an invalid action was, such as `place_error`, where the benchmark says so.
    """

    observation: str
    progress: float
    success: bool
    done: bool
    valid: bool
    fault: bool = False
    error_kind: str = ""


class Environment(Protocol):
    """One running episode."""

    @property
    def goal(self) -> str:
        """The task in words; known after `reset`."""
        ...

    @property
    def actions(self) -> Mapping[str, str]:
        """The templates of all actions, each with what it does; known after `reset`."""
        ...

    def reset(self) -> str:
        """Start the episode and return the first observation.

        Raises:
            SimulatorError: the simulator cannot start it.
        """
        ...

    def step(self, action: str) -> StepResult:
        """Take one action. Any text is answered with an observation; no text raises.

        Raises:
            SimulatorError: the simulator died or stopped answering.
        """
        ...

    def possible(self) -> list[str]:
        """Actions that are possible now, as an agent writes them; the agent does not see them. It changes nothing.

        Raises:
            UnlistedActionsError: the simulator does not list them.
            SimulatorError: the simulator died or stopped answering.
        """
        ...

    def close(self) -> None:
        """Free what the episode holds."""
        ...


class Benchmark(Protocol):
    """A set of episodes.

    Attributes:
        name: as in `evaluation.benchmarks` of params.yaml.
        progress_definition: in words, what the progress rate measures here.
    """

    name: str
    progress_definition: str

    def episodes(self, limit: int, seed: int) -> Sequence[EpisodeSpec]:
        """At most `limit` episodes, the same ones for the same seed, spread over the task types.

        Raises:
            UserError: a package or data folder is missing; names it and how to install it.
        """
        ...

    def make(self, episode: EpisodeSpec) -> Environment:
        """The environment of one episode."""
        ...

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """Actions that solve the episode.

        Raises:
            NoSolutionError: the benchmark has none.
        """
        ...
