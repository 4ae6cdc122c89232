"""The contract of a policy (dialogues in, replies out), and how the episodes of a play get their replies from one.

Within one event loop each episode awaits its own reply, and a batch is made of those that wait.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import chain, islice
from typing import NamedTuple, ParamSpec, Protocol, TypeVar

from agentrefine.benchmarks.base import Environment
from agentrefine.game.conversation import Message

ArgumentsT = ParamSpec("ArgumentsT")
ResultT = TypeVar("ResultT")


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


class BatchQueue:
    """Serves all dialogues that wait, step by step; new ones join between two steps.

    Every episode that was answered takes its turn before the next step. Where environments answer at
    once, the dialogues of a batch and their order are therefore the same in every run.

    Args:
        generator: who writes the replies.
        thread: one thread, in which the steps are taken; without it they block the event loop.
        tasks: where the serving task belongs, so that its failure ends the play.
    """

    def __init__(self, generator: ReplyGenerator, thread: Executor | None, tasks: asyncio.TaskGroup) -> None:
        self._generator = generator
        self._thread = thread
        self._tasks = tasks
        self._asked: list[Dialogue] = []
        self._over: list[str] = []
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._serving: asyncio.Task[None] | None = None

    async def reply(self, dialogue: Dialogue) -> Reply:
        """The next reply in a dialogue. An episode has one dialogue at a time."""
        self._asked.append(dialogue)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[dialogue.key] = reply
        if self._serving is None or self._serving.done():
            self._serving = self._tasks.create_task(self._serve())
        try:
            return await reply
        finally:
            del self._waiting[dialogue.key]

    def forget(self, key: str) -> None:
        """Free what is kept for an episode before the next step."""
        self._over.append(key)

    async def close(self) -> None:
        """Free what is kept for the episodes that are over."""
        self._asked.clear()
        await self._step()

    async def _serve(self) -> None:
        """Step as long as somebody waits."""
        while self._waiting:
            for key, reply in await self._step():
                self._waiting[key].set_result(reply)
            await asyncio.sleep(0)  # those that were answered take their turn

    async def _step(self) -> Sequence[tuple[str, Reply]]:
        # The lists change hands in the loop's thread, which appends to them.
        asked, self._asked = self._asked, []
        over, self._over = self._over, []
        return await run_in(self._thread, self._until_news, over, asked)

    def _until_news(self, over: Sequence[str], asked: Sequence[Dialogue]) -> Sequence[tuple[str, Reply]]:
        """Steps until a reply is finished or an episode has come or gone, so that the loop is not woken for nothing."""
        for key in over:
            self._generator.forget(key)
        for dialogue in asked:
            self._generator.add(dialogue)
        replies = self._generator.step()
        while not (replies or self._asked or self._over) and self._waiting:
            replies = self._generator.step()
        return replies


class PolicyCalls:
    """A policy that answers in batches, as a generator: each step calls it for all dialogues that were added."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._asked: list[Dialogue] = []

    def add(self, dialogue: Dialogue) -> None:
        """Ask for a reply."""
        self._asked.append(dialogue)

    def step(self) -> Sequence[tuple[str, Reply]]:
        """All replies, each with its dialogue's key."""
        asked, self._asked = self._asked, []
        keys = [dialogue.key for dialogue in asked]
        return list(zip(keys, self._policy.act(asked), strict=True)) if asked else []

    def forget(self, key: str) -> None:
        """An episode is over."""
        self._policy.forget([key])


class SeparateCalls:
    """Calls a policy for each dialogue by itself, in one of `calls` threads, so that nobody waits for the slowest."""

    def __init__(self, policy: Policy, calls: int) -> None:
        self._policy = policy
        self._threads = ThreadPoolExecutor(calls)

    async def reply(self, dialogue: Dialogue) -> Reply:
        """The next reply in a dialogue."""
        (reply,) = await run_in(self._threads, self._policy.act, [dialogue])
        return reply

    def forget(self, key: str) -> None:
        """An episode is over."""
        self._policy.forget([key])

    async def close(self) -> None:
        """Calls that are in flight end with the policy."""
        self._threads.shutdown(wait=False, cancel_futures=True)


Replies = BatchQueue | SeparateCalls
"""Where the episodes of a play get their replies."""


def reply_sources(policy: Policy, at_once: int, tasks: asyncio.TaskGroup) -> Sequence[Replies]:
    """Where `at_once` episodes get a policy's replies: one source or, for several generators, one of each."""
    if isinstance(policy, GeneratingPolicy):
        workers = zip(policy.generators, policy.threads, strict=True)
        return [BatchQueue(generator, thread, tasks) for generator, thread in islice(workers, max(1, at_once))]
    return [BatchQueue(PolicyCalls(policy), None, tasks) if policy.batched else SeparateCalls(policy, max(1, at_once))]


async def run_in(
    executor: Executor | None, work: Callable[ArgumentsT, ResultT], *args: ArgumentsT.args, **kwargs: ArgumentsT.kwargs
) -> ResultT:
    """Call `work` in a thread of an executor; without an executor, here and now."""
    if executor is None:
        return work(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(executor, partial(work, *args, **kwargs))
