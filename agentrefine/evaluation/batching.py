"""How the episodes of a play get their replies from a policy, within one event loop.

Each episode awaits its own reply, and a batch is made of those that wait.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import ParamSpec, TypeVar

from agentrefine.evaluation.policy import Dialogue, GeneratingPolicy, Policy, Reply, ReplyGenerator

ArgumentsT = ParamSpec("ArgumentsT")
ResultT = TypeVar("ResultT")


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
