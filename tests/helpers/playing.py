"""Policies and junk for tests of the player and the environments."""

import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import pytest

from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec, SimulatorError, StepResult
from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.errors import NotInstalledError
from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.policy import Dialogue, Reply
from agentrefine.evaluation.rollout import play
from agentrefine.game.conversation import reply_text

JUNK = (
    "",
    " ",
    "x" * 10_000,
    "go to " + "x" * 10_000,
    "dance",
    "go to nowhere 1",
    "pick up the moon 1",
    "take",
    "go to\nthe kitchen",
    "\n\n",
    "öffne die Tür 開ける 🚪",
    "go to {object}",
    "\x00\x1b[31m",
    "(((((((((",
    "$name ${x} %s {0}",
    "check valid actions of the moon",
)
"""Actions that no environment may stumble over."""


class ScriptedPolicy:
    """Answers each episode with the next text of its script, and with the last one when there is none left."""

    name = "scripted"
    batched = True

    def __init__(self, scripts: dict[str, list[str]]) -> None:
        self.scripts = scripts
        self.turns: dict[str, int] = {}
        self.batches: list[list[str]] = []
        self.forgotten: list[str] = []
        self.read: dict[str, list] = {}

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        self.batches.append([dialogue.key for dialogue in dialogues])
        replies = []
        for dialogue in dialogues:
            turn = self.turns.get(dialogue.key, 0)
            self.turns[dialogue.key] = turn + 1
            self.read[dialogue.key] = dialogue.messages
            script = self.scripts[dialogue.key]
            replies.append(Reply(script[min(turn, len(script) - 1)], prompt_tokens=10, completion_tokens=5))
        return replies

    def forget(self, keys: Sequence[str]) -> None:
        self.forgotten.extend(keys)


def installed(name: str, number: int = 1, seed: int = 7) -> tuple[Benchmark, Sequence[EpisodeSpec]]:
    """A benchmark and its episodes; the test is skipped where its simulator is not installed."""
    chosen = benchmark(name)
    try:
        return chosen, chosen.episodes(number, seed)
    except NotInstalledError as error:
        pytest.skip(str(error))


@contextmanager
def opened(benchmark: Benchmark, episode: EpisodeSpec) -> Iterator[Environment]:
    """An episode's environment, started, and closed at the end."""
    environment = benchmark.make(episode)
    environment.reset()
    yield environment
    environment.close()


def play_gold(benchmark: Benchmark, episodes: Sequence[EpisodeSpec], max_steps: int = 100) -> list[Episode]:
    """The episodes, each played with its solution."""
    return list(play(gold_policy(benchmark, episodes), benchmark, episodes, max_steps=max_steps, batch_size=8))


def assert_won(episodes: Sequence[Episode]) -> None:
    """All are solved, by valid actions only."""
    assert {(episode.stop, episode.success, episode.progress) for episode in episodes} == {("solved", True, 1.0)}
    assert all(step.valid for episode in episodes for step in episode.steps)


def memory_growth(environment: Environment, actions: Iterable[str], settled: int) -> int:
    """By how many bytes memory grows from the `settled`-th of the actions to the last; each has to be answered."""
    tracemalloc.start()
    start = 0
    for number, action in enumerate(actions):
        if number == settled:
            start = tracemalloc.get_traced_memory()[0]
        result = environment.step(action)
        assert 0 < len(result.observation) < 3000
        if result.done:
            environment.reset()
    end = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return end - start


def gold_policy(benchmark: Benchmark, episodes: Sequence[EpisodeSpec]) -> ScriptedPolicy:
    """Plays each episode's solution; every episode must have one."""
    scripts = {}
    for episode in episodes:
        actions = benchmark.gold(episode)
        assert actions, f"{episode.id} has no solution"
        scripts[episode.id] = [reply_text("I know what to do.", action) for action in actions]
    return ScriptedPolicy(scripts)


class PushGame:
    """Solved after as many pushes as its seed says; pulling is an error, and `break` kills the simulator."""

    actions: ClassVar = {"push": "push the button"}

    def __init__(self, needed):
        self.goal = f"push {needed} times"
        self.needed, self.pushed, self.closed = needed, 0, 0

    def reset(self):
        return "a button"

    def step(self, action):
        if action == "break":
            raise SimulatorError("the button fell off")
        self.pushed += action == "push"
        return StepResult(
            observation=f"pushed {self.pushed}" if action in ("push", "quit") else "you cannot",
            progress=min(1.0, self.pushed / self.needed),
            success=self.pushed >= self.needed,
            done=self.pushed >= self.needed or action == "quit",
            valid=action in ("push", "quit"),
        )

    def close(self):
        self.closed += 1


class PushBenchmark:
    name = "push"
    progress_definition = "pushes"

    def __init__(self):
        self.made = []

    def episodes(self, limit, seed):
        return [
            EpisodeSpec(id=f"push.{n}", benchmark=self.name, task="push", seed=1 + n % 3, variant="v")
            for n in range(limit)
        ]

    def make(self, episode):
        self.made.append(PushGame(episode.seed))
        return self.made[-1]

    def gold(self, episode):
        return ["push"] * episode.seed
