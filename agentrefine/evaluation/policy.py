"""The contract of a policy: dialogues in, replies out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple, Protocol

from agentrefine.benchmarks.base import Environment
from agentrefine.game.conversation import Message


class Dialogue(NamedTuple):
    """What an agent has seen and said in one episode.

    Attributes:
        key: identifies the episode in a batch; a policy may keep state (a KV cache) under it between calls.
        messages: user and assistant in turn, ending with the user.
        environment: the game itself, which `chance` asks for what is possible; a model reads the messages only.
    """

    key: str
    messages: list[Message]
    environment: Environment | None = None


class Reply(NamedTuple):
    """One answer of a policy.

    Attributes:
        text: the answer, raw: what the policy wrote before the end of its turn.
        prompt_tokens, completion_tokens: as the policy counts them.
        turns_cut: how many of the dialogue's oldest turns were left out because the context was full.
        context_full: not even the opening and the last turn fit; there is no answer and the episode ends.
        cut: the answer was cut at its limit of tokens.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    turns_cut: int = 0
    context_full: bool = False
    cut: bool = False


OPENING_MESSAGES = 3
"""Instructions, acknowledgement, goal: never cut."""


def without_oldest_turns(messages: list[Message], turns: int) -> list[Message]:
    """The dialogue without its `turns` oldest turns: the agent's message and the observation that answers it."""
    return messages[:OPENING_MESSAGES] + messages[OPENING_MESSAGES + 2 * turns :]


def turns_taken(messages: list[Message]) -> int:
    """How many turns the agent has had."""
    return (len(messages) - OPENING_MESSAGES) // 2


def turns_that_can_be_cut(messages: list[Message]) -> int:
    """How many turns may go: all but the last, whose observation is what the agent answers."""
    return max(0, turns_taken(messages) - 1)


class Policy(Protocol):
    """A model that acts.

    Attributes:
        name: the model's name in reports.
        batched: many dialogues at once are cheaper than one after the other, so all that wait are given in one call;
            otherwise each is given in a call and a thread of its own, and nobody waits for the slowest reply.
    """

    name: str
    batched: bool

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One reply per dialogue, in their order."""

    def forget(self, keys: Sequence[str]) -> None:
        """These episodes are over: free what is kept for them."""

    def close(self) -> None:
        """Nothing more is asked: end what is in flight."""


class ReplyGenerator(Protocol):
    """Writes replies in a batch that dialogues join at any time. One thread at a time uses it."""

    def add(self, dialogue: Dialogue) -> None:
        """Begin a reply. The dialogue's reply before this one is finished."""

    def step(self) -> Sequence[tuple[str, Reply]]:
        """Extend every reply by at most one token; returns those that are finished, each with its dialogue's key."""

    def forget(self, key: str) -> None:
        """An episode is over: free what is kept for it."""


class GeneratingPolicy:
    """A policy that writes replies with generators, so that no reply waits for the longest one of its batch.

    Args:
        name: the model's name in reports.
        generators: at least one. Several are used side by side.
        threads: one thread for each generator.
    """

    batched = True

    def __init__(self, name: str, generators: Sequence[ReplyGenerator], threads: Sequence[ThreadPoolExecutor]) -> None:
        self.name = name
        self.generators = generators
        self.threads = threads
        self._homes: dict[str, int] = {}

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        """One reply per dialogue, in their order; their keys are distinct."""
        shares: list[list[Dialogue]] = [[] for _ in self.generators]
        for dialogue in dialogues:
            shares[self._homes.setdefault(dialogue.key, len(self._homes) % len(shares))].append(dialogue)
        work = zip(self.threads, self.generators, shares, strict=True)
        answered = [thread.submit(_answers, generator, share) for thread, generator, share in work]
        replies = dict(chain.from_iterable(found.result() for found in answered))
        return [replies[dialogue.key] for dialogue in dialogues]

    def forget(self, keys: Sequence[str]) -> None:
        """These episodes are over: free what is kept for them."""
        for key in keys:
            for generator in self.generators:
                generator.forget(key)
            self._homes.pop(key, None)

    def close(self) -> None:
        """Nothing more is asked."""
        for thread in self.threads:
            thread.shutdown()


def _answers(generator: ReplyGenerator, dialogues: Sequence[Dialogue]) -> list[tuple[str, Reply]]:
    for dialogue in dialogues:
        generator.add(dialogue)
    found: list[tuple[str, Reply]] = []
    while len(found) < len(dialogues):
        found += generator.step()
    return found
