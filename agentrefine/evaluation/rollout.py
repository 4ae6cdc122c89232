"""Playing episodes: the ReAct loop between a policy and the environments of a benchmark, many episodes at once."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec, SimulatorError, StepResult
from agentrefine.benchmarks.catalogue import perturbation_of
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.evaluation.batching import BatchQueue, Replies, SeparateCalls, by_generator, by_policy, run_in
from agentrefine.evaluation.episodes import Episode, EpisodeStep, StopReason, repeats
from agentrefine.evaluation.policy import Dialogue, GeneratingPolicy, Policy
from agentrefine.evaluation.prompting import PlayPrompt
from agentrefine.game.conversation import Message
from agentrefine.llm.thinking import without_thinking
from agentrefine.params.evaluation import Prompting

REACT = Prompting()

RESTARTS = 1
"""How often an episode is begun again after its simulator died; after that it is reported as an error."""


def play(
    policy: Policy,
    benchmark: Benchmark,
    episodes: Sequence[EpisodeSpec],
    *,
    max_steps: int,
    batch_size: int,
    stop_on_repeats: int | None = None,
    prompting: Prompting = REACT,
    model_digest: str = "",
) -> Iterator[Episode]:
    """Play `episodes`, at most `batch_size` at once, and yield each when it ends.

    Each seat plays one episode after the other (`_Player.episode`). A policy of several generators has its seats and
    its episodes dealt to them in turn, so that each generator sees the same dialogues in every run; one that answers in
    batches is called for all episodes that wait for it, and any other one for each by itself, in a thread. Environments
    that live in processes of their own (`SimulatorBenchmark`) step side by side, and nobody waits for the slowest of
    them. All others step in this thread, one at a time, as some redirect the output of the whole process.

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

    Yields:
        Each finished episode, in the order of finishing. Environments that live in this process and a policy that
        answers in batches, or with one generator, give the same order for the same replies.
    """
    simulators = ThreadPoolExecutor(batch_size) if isinstance(benchmark, SimulatorBenchmark) else None
    prompt = PlayPrompt(benchmark.name, prompting)
    player = _Player(benchmark, prompt, max_steps, stop_on_repeats, policy.name, model_digest, simulators)
    ended: asyncio.Queue[Episode | None] = asyncio.Queue()
    with asyncio.Runner() as runner:
        playing = runner.get_loop().create_task(_play_all(policy, player, episodes, batch_size, ended))
        playing.add_done_callback(lambda _: ended.put_nowait(None))
        try:
            while (episode := runner.run(ended.get())) is not None:
                yield episode
        finally:
            playing.cancel()
            runner.run(_end(playing))
            if simulators:
                simulators.shutdown(cancel_futures=True)
        playing.result()


async def _end(playing: "asyncio.Task[None]") -> None:
    await asyncio.wait({playing})


async def _play_all(
    policy: Policy,
    player: "_Player",
    episodes: Sequence[EpisodeSpec],
    batch_size: int,
    ended: "asyncio.Queue[Episode | None]",
) -> None:
    """Play all episodes and put each into `ended`; the first error ends all and is raised."""
    sources: list[Replies] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            if isinstance(policy, GeneratingPolicy):
                count = max(1, min(len(policy.generators), batch_size, len(episodes)))
                workers = list(zip(policy.generators, policy.threads, strict=True))[:count]
                sources += [BatchQueue(by_generator(generator), thread, tasks) for generator, thread in workers]
            elif policy.batched:
                sources.append(BatchQueue(by_policy(policy), None, tasks))
            else:
                sources.append(SeparateCalls(policy, batch_size))
            shares = [iter(episodes[number :: len(sources)]) for number in range(len(sources))]
            for seat in range(batch_size):
                number = seat % len(sources)
                tasks.create_task(player.seat(shares[number], sources[number], ended))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    finally:
        for source in sources:
            await source.close()


@dataclass(frozen=True)
class _Player:
    """The rules that all episodes are played by, and whose they are.

    Attributes:
        simulators: the threads in which environments are waited for; None: they answer at once.
    """

    benchmark: Benchmark
    prompt: PlayPrompt
    max_steps: int
    stop_on_repeats: int | None
    model: str
    model_digest: str
    simulators: Executor | None

    async def seat(
        self, specs: Iterator[EpisodeSpec], replies: Replies, ended: "asyncio.Queue[Episode | None]"
    ) -> None:
        """Play the next of the episodes until there are none."""
        for spec in specs:
            ended.put_nowait(await self.episode(spec, replies))

    async def episode(self, spec: EpisodeSpec, replies: Replies) -> Episode:
        """Play one episode; it is begun again when its simulator dies."""
        first_observation, error, restarts = "", "", 0
        try:
            while True:
                environment = self.benchmark.make(spec)
                steps: list[EpisodeStep] = []
                try:
                    first_observation = await run_in(self.simulators, environment.reset)
                    stop = await self._turns(spec, environment, first_observation, replies, steps)
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
    ) -> StopReason:
        """Take the agent's turns after the first observation; each is added to `steps`. Why they end is returned."""
        messages = self.prompt.opening(environment, observation, perturbation_of(spec))
        progress = 0.0
        while True:
            reply = await replies.reply(Dialogue(spec.key, messages))
            if reply.context_full:
                return "context full"
            said = without_thinking(reply.text)
            parsed = self.prompt.read(said)
            thought, action = parsed or ("", "")
            if parsed:
                result = await run_in(self.simulators, environment.step, action)
            else:  # the environment does not see a reply in the wrong form
                result = StepResult(self.prompt.format_error(), progress, success=False, done=False, valid=False)
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
                )
            )
            stop = self._stop(result, steps)
            if stop:
                return stop
            messages = [
                *messages,
                Message(role="assistant", content=said),
                Message(role="user", content=result.observation),
            ]

    def _stop(self, result: StepResult, steps: Sequence[EpisodeStep]) -> StopReason | None:
        """Why an episode ends after a step; None when it continues."""
        if result.success:
            return "solved"
        if result.done:
            return "environment over"
        if self.stop_on_repeats and repeats(steps) >= self.stop_on_repeats:
            return "stuck"
        return "step limit" if len(steps) >= self.max_steps else None
