"""Playing episodes: the ReAct loop between a policy and the environments of a benchmark, many episodes at once."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from itertools import cycle
from typing import ParamSpec, TypeVar

from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec, SimulatorError, StepResult
from agentrefine.benchmarks.catalogue import perturbation_of
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.evaluation.batching import Replies, reply_sources, run_in
from agentrefine.evaluation.episodes import FORMAT_ERROR, OTHER_ERROR, Episode, EpisodeStep, StopReason, repeats
from agentrefine.evaluation.policy import Dialogue, Policy
from agentrefine.evaluation.prompting import PlayPrompt
from agentrefine.evaluation.times import EpisodeTimes, Times, TurnTime
from agentrefine.game.conversation import Message
from agentrefine.llm.thinking import without_thinking
from agentrefine.params.evaluation import Prompting

ArgumentsT = ParamSpec("ArgumentsT")
ItemT = TypeVar("ItemT")

REACT = Prompting()


RESTARTS = 1
"""How often an episode is begun again after its simulator died; after that it is reported as an error."""


async def play_async(
    policy: Policy,
    benchmark: Benchmark,
    episodes: Sequence[EpisodeSpec],
    *,
    max_steps: int,
    batch_size: int,
    stop_on_repeats: int | None = None,
    prompting: Prompting = REACT,
    model_digest: str = "",
    times: Times | None = None,
) -> AsyncGenerator[Episode]:
    """Play `episodes`, at most `batch_size` at once, and yield each when it ends.

    A policy of several generators has its episodes dealt to them in turn, so that each generator sees the same
    dialogues in every run; one that answers in batches is called for all episodes that wait for it, and any other one
    for each by itself, in a thread. Environments that live in processes of their own (`SimulatorBenchmark`) step side
    by side, and nobody waits for the slowest of them. All others step in the event loop's thread, one at a time, as
    some redirect the output of the whole process.

    The dialogue is `PlayPrompt.opening`, then the agent's replies, without what a reasoning model thinks before them
    (`without_thinking`), and the observations. A reply in the wrong form costs a step and is answered by the reply
    format. An episode whose simulator dies is begun again once.

    Args:
        policy: who plays.
        benchmark: whose environments are played.
        episodes: what to play; ids and attempts are unique together.
        max_steps: replies that an agent may give in one episode (30 in AgentBoard).
        batch_size: episodes at once.
        stop_on_repeats: an episode ends when the same failing action, or the same malformed reply, has come so often;
            None: it continues.
        prompting: what the agent is asked for.
        model_digest: what identifies the model's weights, for the record.
        times: where each episode's times are put before it is yielded.

    Yields:
        Each finished episode, in the order of finishing. Environments that live in this process and a policy that
        answers in batches, or with one generator, give the same order for the same replies.
    """
    simulators = ThreadPoolExecutor(batch_size) if isinstance(benchmark, SimulatorBenchmark) else None
    prompt = PlayPrompt(benchmark.name, prompting)
    ended: asyncio.Queue[Episode | None] = asyncio.Queue()
    player = _Player(
        benchmark,
        prompt,
        max_steps,
        stop_on_repeats,
        policy.name,
        model_digest,
        simulators,
        ended,
        {} if times is None else times,
    )
    playing = asyncio.create_task(_play_all(policy, player, episodes, batch_size))
    playing.add_done_callback(lambda _: ended.put_nowait(None))
    try:
        while (episode := await ended.get()) is not None:
            yield episode
    finally:
        playing.cancel()
        await asyncio.wait({playing})
        if simulators:
            simulators.shutdown(cancel_futures=True)
    playing.result()


def _synchronous(generator: Callable[ArgumentsT, AsyncGenerator[ItemT]]) -> Callable[ArgumentsT, Generator[ItemT]]:
    """An async generator for callers without `await`. Where their thread runs an event loop, it works in another."""

    def in_own_loop(items: AsyncGenerator[ItemT]) -> Generator[ItemT]:
        with asyncio.Runner() as runner:
            try:
                with suppress(StopAsyncIteration):
                    while True:
                        yield runner.run(items.__anext__())
            finally:
                runner.run(items.aclose())

    @wraps(generator)
    def iterate(*args: ArgumentsT.args, **kwargs: ArgumentsT.kwargs) -> Generator[ItemT]:
        items = in_own_loop(generator(*args, **kwargs))
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            loop_runs = False
        else:
            loop_runs = True
        if not loop_runs:
            yield from items
            return
        with ThreadPoolExecutor(1) as thread:
            try:
                while (item := thread.submit(next, items, None).result()) is not None:
                    yield item
            finally:
                thread.submit(items.close).result()

    return iterate


play = _synchronous(play_async)
"""`play_async` as an ordinary generator. Within a running event loop it works too, and blocks that loop meanwhile."""


async def _play_all(policy: Policy, player: "_Player", episodes: Sequence[EpisodeSpec], batch_size: int) -> None:
    """Play all episodes; the first error ends all and is raised."""
    sources: list[Replies] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            sources += reply_sources(policy, min(batch_size, len(episodes)), tasks)
            shares = [iter(episodes[number :: len(sources)]) for number in range(len(sources))]
            for _, share, source in zip(range(batch_size), cycle(shares), cycle(sources), strict=False):
                tasks.create_task(player.play_next(share, source))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    finally:
        for source in sources:
            await source.close()


@dataclass(frozen=True)
class _Player:
    """The rules that all episodes are played by, and who plays them.

    Attributes:
        simulators: the threads in which environments are waited for; None: they answer at once.
        ended: where each episode is put when it ends.
        times: where its times are put before.
    """

    benchmark: Benchmark
    prompt: PlayPrompt
    max_steps: int
    stop_on_repeats: int | None
    model: str
    model_digest: str
    simulators: Executor | None
    ended: asyncio.Queue[Episode | None]
    times: Times

    async def play_next(self, specs: Iterator[EpisodeSpec], replies: Replies) -> None:
        """Play one of the episodes after the other until there are none."""
        for spec in specs:
            self.ended.put_nowait(await self.episode(spec, replies))

    async def episode(self, spec: EpisodeSpec, replies: Replies) -> Episode:
        """Play one episode; it is begun again when its simulator dies."""
        first_observation, error, restarts = "", "", 0
        began, start, before = time.time(), time.perf_counter(), 0.0
        try:
            while True:
                environment = self.benchmark.make(spec)
                steps: list[EpisodeStep] = []
                turns: list[TurnTime] = []
                try:
                    first_observation = await run_in(self.simulators, environment.reset)
                    before = time.perf_counter() - start
                    stop = await self._turns(spec, environment, first_observation, replies, steps, turns)
                    break
                except SimulatorError as death:
                    if restarts == RESTARTS:
                        stop, error = "environment error", str(death)
                        break
                    restarts += 1
                finally:
                    environment.close()
        finally:
            replies.forget(spec.key)
        self.times[spec.id, spec.attempt] = EpisodeTimes(
            benchmark=spec.benchmark,
            id=spec.id,
            attempt=spec.attempt,
            began=began,
            before=before,
            turns=turns,
            after=time.perf_counter() - start - before - sum(map(sum, turns)),
        )
        return Episode(
            **spec.model_dump(),
            model=self.model,
            model_digest=self.model_digest,
            goal=environment.goal,
            first_observation=first_observation,
            steps=steps,
            success=stop == "solved",
            progress=steps[-1].progress if steps else 0.0,
            stop=stop,
            error=error,
            restarts=restarts,
        )

    async def _turns(
        self,
        spec: EpisodeSpec,
        environment: Environment,
        observation: str,
        replies: Replies,
        steps: list[EpisodeStep],
        turns: list[TurnTime],
    ) -> StopReason:
        """Take turns after the first observation, add each to `steps` and its times to `turns`; return why they end."""
        messages = self.prompt.opening(environment, observation, perturbation_of(spec))
        progress = 0.0
        while True:
            asked = time.perf_counter()
            reply = await replies.reply(Dialogue(spec.key, messages, environment))
            replied = time.perf_counter()
            if reply.context_full:
                return "context full"
            turn = without_thinking(reply.text)
            parsed = self.prompt.read(turn)
            thought, action = parsed or ("", "")
            if parsed:
                result = await run_in(self.simulators, environment.step, action)
            else:  # the environment does not see a reply in the wrong form
                text = self.prompt.format_error()
                result = StepResult(text, progress, success=False, done=False, valid=False, error_kind=FORMAT_ERROR)
            turns.append(TurnTime(replied - asked, time.perf_counter() - replied))
            progress = max(progress, result.progress)
            steps.append(
                EpisodeStep(
                    thought=thought,
                    action=action,
                    reply=reply.text,
                    observation=result.observation,
                    valid=result.valid,
                    format_error=parsed is None,
                    progress=progress,
                    prompt_tokens=reply.prompt_tokens,
                    completion_tokens=reply.completion_tokens,
                    turns_cut=reply.turns_cut,
                    cut=reply.cut,
                    fault=result.fault,
                    error_kind="" if result.valid else result.error_kind or OTHER_ERROR,
                )
            )
            if result.success:
                return "solved"
            if result.done:
                return "environment over"
            if self.stop_on_repeats and repeats(steps) >= self.stop_on_repeats:
                return "stuck"
            if len(steps) >= self.max_steps:
                return "step limit"
            answered = Message(role="assistant", content=turn), Message(role="user", content=result.observation)
            messages = [*messages, *answered]
