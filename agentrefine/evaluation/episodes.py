"""Episodes, and the journal of a running evaluation: an episode that has ended is not played again."""

import errno
import operator
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, Field, ValidationError

from agentrefine.errors import UserError
from agentrefine.evaluation.times import EpisodeTimes, Times
from agentrefine.llm.thinking import without_thinking

KeyT = TypeVar("KeyT")

FORMAT_ERROR = "format_error"
"""The kind of error that a reply in the wrong form is (`EpisodeStep.error_kind`)."""

OTHER_ERROR = "other"
"""The kind of error of an action that the benchmark refuses without saying why."""

StopReason = Literal["solved", "step limit", "stuck", "environment over", "context full", "environment error"]


class EpisodeStep(BaseModel, frozen=True):
    """One turn of the agent and the answer to it.

    Example: `{"thought": "I look.", "action": "look", ..., "valid": true, "format_error": false, "progress": 0.5, ...}`

    Attributes:
        thought, action: the parts of the reply; both empty on a format error.
        reply: the reply, raw, with the thoughts of a reasoning model before it; the history holds it without them.
        observation: what the agent saw next.
        valid: the action was known, well-formed and possible (AgentBoard's grounding); False on a format error.
        format_error: the reply was not in the `Thought:`/`Action:` form; the environment did not see it.
        progress: best share of sub-goals so far, in [0, 1].
        prompt_tokens, completion_tokens: as the policy counts them.
        turns_cut: how many of the oldest turns the policy did not read because its context was full.
        cut: the reply was cut at its limit of tokens.
        fault: the action was possible and the world failed (`StepResult.fault`); the step is valid and no error. Only
            where it is true is it written.
        error_kind: `format_error`, a kind that the benchmark names (in our worlds `parameter_error`, `logic_error`,
            `place_error`), or `other` where it names none; empty without an error, and in files of before this field.
    """

    thought: str
    action: str
    reply: str
    observation: str
    valid: bool
    format_error: bool
    progress: float
    prompt_tokens: int
    completion_tokens: int
    turns_cut: int
    cut: bool = False
    fault: bool = Field(default=False, exclude_if=operator.not_)
    error_kind: str = ""

    @property
    def failed(self) -> bool:
        """Whether the agent made an error; a fault of the world is none."""
        return not self.valid

    @property
    def attempted(self) -> str:
        """What the agent tried: its action, or its reply where that is malformed."""
        return self.reply if self.format_error else self.action


class Episode(BaseModel, frozen=True, populate_by_name=True, serialize_by_alias=True):
    """One episode as one model played it. Equal plays give equal bytes: how long it took is not written.

    Example: `{"id": "assemble.harbor.69", "benchmark": "worlds_layouts", ..., "steps": [{...}], "success": true, ...}`

    Attributes:
        id, benchmark, task, seed, variant, difficulty, perturbation, attempt: the specification (`EpisodeSpec`).
        model: the model's name.
        model_digest: what identifies its weights; empty where that is unknown.
        goal: the task in words.
        first_observation: what the agent saw before its first turn; with `goal`, `steps` and the benchmark's
            instructions, the whole dialogue.
        steps: the agent's turns.
        success: the goal was fully reached.
        progress: best share of sub-goals reached, in [0, 1].
        stop: why it ended; `stuck` is the player's own rule (`evaluation.stop_on_repeats`).
        error: what the simulator said when `stop` is `environment error`; otherwise empty.
        restarts: how often it was begun again because the simulator died.
    """

    id: str
    benchmark: str
    task: str
    seed: int
    variant: str
    difficulty: str
    model: str
    model_digest: str
    goal: str
    first_observation: str
    steps: list[EpisodeStep]
    success: bool
    progress: float
    stop: StopReason
    error: str = ""
    restarts: int = 0
    perturbation: str = Field("", alias="wording")
    attempt: int = 0

    @property
    def is_evidence(self) -> bool:
        """Whether it says something of the model: not so when the simulator failed."""
        return self.stop != "environment error"

    @property
    def cluster(self) -> str:
        """What was played under the same conditions: attempts at an episode, a world with all its perturbations."""
        return self.id.removesuffix(f"/{self.perturbation}") if self.perturbation else self.id

    @property
    def prompt_tokens(self) -> int:
        """Tokens that the policy read, summed over the turns."""
        return sum(step.prompt_tokens for step in self.steps)

    @property
    def completion_tokens(self) -> int:
        """Tokens that the policy wrote."""
        return sum(step.completion_tokens for step in self.steps)


class ReplyCounts(NamedTuple):
    """Replies of some episodes: all, those cut at their limit of tokens, and those empty but for a model's thoughts."""

    replies: int
    cut: int
    empty: int


def count_replies(episodes: Iterable[Episode]) -> ReplyCounts:
    """How many replies there are, and how many of them were cut or empty."""
    steps = [step for episode in episodes for step in episode.steps]
    empty = sum(not without_thinking(step.reply).strip() for step in steps)
    return ReplyCounts(len(steps), sum(step.cut for step in steps), empty)


def grouped(episodes: Iterable[Episode], key: Callable[[Episode], KeyT]) -> dict[KeyT, list[Episode]]:
    """Episodes by a key, in their order; the groups come in the order of their first episodes."""
    groups: dict[KeyT, list[Episode]] = {}
    for episode in episodes:
        groups.setdefault(key(episode), []).append(episode)
    return groups


def repeats(steps: Sequence[EpisodeStep]) -> int:
    """How often the failing action, or malformed reply, has come that came most often."""
    failing = Counter(step.attempted for step in steps if step.failed)
    return max(failing.values(), default=0)


class _Entry(BaseModel):
    """A line of the file: `{"seconds": 3.2, "episode": {...}, "times": {...}}`.

    Attributes:
        seconds: wall-clock time of the evaluation until this episode had ended, without pauses between runs.
        times: the episode's; None in a line of before they were measured.
    """

    seconds: float
    episode: Episode
    times: EpisodeTimes | None = None


class EpisodeJournal:
    """A file of finished episodes, each on disk before the next is reported.

    Attributes:
        path: the file; it belongs to one model, benchmark and set of rules.
        episodes: those that it holds, in the order in which they ended.
        times: theirs, as far as they were measured; of an episode that was played again those of the last play.
        seconds: how long playing them took, without pauses between runs.
    """

    def __init__(self, path: Path) -> None:
        """Open or begin the file. A last line that was cut off when its writer was killed is dropped.

        Raises:
            UserError: the file cannot be written.
        """
        self.path = path
        self.episodes: list[Episode] = []
        self.times: Times = {}
        self.seconds = 0.0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
        except OSError as error:
            raise self._cannot(error) from error
        self._file.seek(0)
        whole = 0
        with suppress(ValidationError):
            for line in self._file:
                entry = _Entry.model_validate_json(line)
                if not line.endswith(b"\n"):
                    break
                self._hold(entry)
                whole += len(line)
        self._file.truncate(whole)
        self._began = time.monotonic() - self.seconds

    def finished(self) -> dict[tuple[str, int], Episode]:
        """The episodes that need not be played again, by id and attempt: all but those that a simulator failed in."""
        return {(episode.id, episode.attempt): episode for episode in self.episodes if episode.is_evidence}

    def add(self, episode: Episode, times: EpisodeTimes) -> None:
        """Write an episode and its times.

        Raises:
            UserError: the disk is full.
        """
        entry = _Entry(seconds=time.monotonic() - self._began, episode=episode, times=times)
        try:
            self._file.write(entry.model_dump_json().encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._cannot(error) from error
        self._hold(entry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _hold(self, entry: _Entry) -> None:
        self.seconds = entry.seconds
        self.episodes.append(entry.episode)
        if entry.times is not None:
            self.times[entry.episode.id, entry.episode.attempt] = entry.times

    def _cannot(self, error: OSError) -> UserError:
        code = "disk_full" if error.errno == errno.ENOSPC else "not_writable"
        message = (
            f"{self.path}: the journal of episodes cannot be written ({error.strerror or error}); free some space or "
            "make its folder writable, and run again."
        )
        return UserError(code, message, file=self.path)
