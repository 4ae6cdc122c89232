"""Playing episodes: the ReAct loop between a policy and the environments of a benchmark, many episodes at once."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock
from typing import Any

from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec, SimulatorError, StepResult
from agentrefine.benchmarks.catalogue import wording_of
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.evaluation.episodes import Episode, EpisodeStep, StopReason, repeats
from agentrefine.evaluation.policy import Dialogue, GeneratingPolicy, Policy, Reply, ReplyGenerator
from agentrefine.evaluation.prompting import PlayPrompt
from agentrefine.game.conversation import Message
from agentrefine.llm.thinking import without_thinking
from agentrefine.params.evaluation import Prompting

REACT = Prompting()
PATIENCE = 1.0
"""Seconds after which a thread that waits for a simulator sees that it has been stopped."""

RESTARTS = 1
"""How often an episode is begun again after its simulator died; after that it is reported as an error."""


@dataclass(eq=False)
class _Running:
    """An episode that is being played."""

    spec: EpisodeSpec
    environment: Environment
    restarts: int = 0
    first_observation: str = ""
    messages: list[Message] = field(default_factory=list)
    steps: list[EpisodeStep] = field(default_factory=list)
    progress: float = 0.0
    stop: StopReason | None = None
    error: str = ""


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

    The place of a finished episode is taken by the next one. Every episode goes on as soon as its reply is written:
    a policy that generates takes dialogues at any time, one that answers in batches is called for all episodes that
    wait for it, and any other one is called for each by itself, in a thread. Environments that live in processes of
    their own (`SimulatorBenchmark`) move side by side, and nobody waits for the slowest of them.

    A policy of several generators has as many threads. The episodes are dealt to them in turn, so that each generator
    sees the same dialogues in every run.

    The dialogue is `PlayPrompt.opening`, then the agent's replies, without what a reasoning model thinks before them
    (`without_thinking`), and the observations. A reply in the wrong form
    costs a step and is answered by the reply format. An episode whose simulator dies is begun again once.

    Args:
        policy: who plays.
        benchmark: whose environments are played.
        episodes: what to play; ids and attempts are unique together.
        max_steps: replies that an agent may give in one episode (30 in AgentBoard).
        batch_size: episodes at once.
        stop_on_repeats: an episode ends when the same failing action, or the same malformed reply, has come so often;
            None: it goes on.
        prompting: what the agent is asked for.
        model_digest: what identifies the model's weights, for the record.

    Yields:
        Each finished episode, in the order of finishing. Environments that live in this process and a policy that
        answers in batches, or with one generator, give the same order for the same replies.
    """
    prompt = PlayPrompt(benchmark.name, prompting)
    one_at_a_time = Lock()

    def table(seats: int, generator: ReplyGenerator | None) -> _Table:
        return _Table(policy, generator, benchmark, prompt, max_steps, stop_on_repeats, seats, one_at_a_time)

    if isinstance(policy, GeneratingPolicy):
        count = max(1, min(len(policy.generators), batch_size, len(episodes)))
        seats = [batch_size // count + (number < batch_size % count) for number in range(count)]
        tables = [table(places, generator) for places, generator in zip(seats, policy.generators, strict=False)]
        shares = [episodes[number::count] for number in range(count)]
        ended = _side_by_side(tables, shares, policy.threads)
    else:
        ended = table(batch_size, _InBatches(policy) if policy.batched else None).play(episodes)
    with closing(ended):
        for episode in ended:
            yield _record(episode, policy.name, model_digest)


def _side_by_side(
    tables: Sequence["_Table"], shares: Sequence[Sequence[EpisodeSpec]], threads: Executor
) -> Generator[_Running, None, None]:
    """Episodes of tables that each play their share in a thread; the first error ends all."""
    ended: SimpleQueue[_Running | None] = SimpleQueue()

    def stop() -> None:
        for table in tables:
            table.stop()

    def work(table: _Table, share: Sequence[EpisodeSpec]) -> None:
        try:
            for episode in table.play(share):
                ended.put(episode)
        except BaseException:
            stop()
            raise
        finally:
            ended.put(None)

    working = [threads.submit(work, table, share) for table, share in zip(tables, shares, strict=True)]
    try:
        for _ in tables:
            while (episode := ended.get()) is not None:
                yield episode
    finally:
        stop()
        wait(working)
    for worked in working:
        worked.result()


class _InBatches:
    """A `ReplyGenerator` that asks a policy for the replies to all dialogues at once."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._asked: list[Dialogue] = []

    @property
    def busy(self) -> bool:
        """Some dialogue has no reply yet."""
        return bool(self._asked)

    def add(self, dialogue: Dialogue) -> None:
        """Ask for a reply."""
        self._asked.append(dialogue)

    def step(self) -> list[tuple[str, Reply]]:
        """All replies."""
        asked, self._asked = self._asked, []
        return [(dialogue.key, reply) for dialogue, reply in zip(asked, self._policy.act(asked), strict=True)]

    def forget(self, key: str) -> None:
        """An episode is over."""
        self._policy.forget([key])


class _Table:
    """The episodes that one thread plays, and who works on which: its environment, the policy, or nobody.

    Attributes:
        running: all of them, by their keys, in the order in which they were begun.
    """

    def __init__(
        self,
        policy: Policy,
        generator: ReplyGenerator | None,
        benchmark: Benchmark,
        prompt: PlayPrompt,
        max_steps: int,
        stop_on_repeats: int | None,
        seats: int,
        one_at_a_time: Lock,
    ) -> None:
        """Without a generator, `policy` is called for each dialogue by itself.

        The environments of this process are used under a lock that all tables share: simulators redirect the output of
        the whole process or keep state that they share.
        """
        self.running: dict[str, _Running] = {}
        self._policy = policy
        self._generator = generator
        self._benchmark = benchmark
        self._prompt = prompt
        self._max_steps = max_steps
        self._stop_on_repeats = stop_on_repeats
        self._seats = seats
        self._closed = False
        remote = isinstance(benchmark, SimulatorBenchmark)
        self._environments: Executor = ThreadPoolExecutor(seats) if remote else _AtOnce(one_at_a_time)
        self._callers = None if generator else ThreadPoolExecutor(seats)
        self._one_at_a_time = one_at_a_time
        self._moving: dict[Future[None], _Running] = {}
        self._thinking: dict[Future[list[Reply]], _Running] = {}
        self._ready: list[_Running] = []
        self._over: list[_Running] = []

    def play(self, specs: Sequence[EpisodeSpec]) -> Generator[_Running, None, None]:
        """Play episodes, as many at once as there are seats; each is given when it has ended, and is closed."""
        waiting = deque(specs)
        try:
            while (waiting or self.running) and not self._closed:
                while waiting and len(self.running) < self._seats:
                    self._begin(waiting.popleft())
                self._ask()
                yield from self._ended()
        finally:
            self._close()

    def stop(self) -> None:
        """Play no further; called from another thread."""
        self._closed = True

    def _begin(self, spec: EpisodeSpec) -> None:
        with self._one_at_a_time:
            environment = self._benchmark.make(spec)
        episode = _Running(spec=spec, environment=environment)
        self.running[spec.key] = episode
        self._move(episode, lambda: self._start(episode))

    def _ask(self) -> None:
        """Give the policy the dialogues of those that wait for it, and let it write."""
        self._settle()
        asked, self._ready = self._ready, []
        for episode in asked:
            dialogue = Dialogue(episode.spec.key, episode.messages)
            if self._generator:
                self._generator.add(dialogue)
            elif self._callers:
                self._thinking[self._callers.submit(self._policy.act, [dialogue])] = episode
        if self._generator and self._generator.busy:
            for key, reply in self._generator.step():
                self._answer(self.running[key], reply)

    def _ended(self) -> list[_Running]:
        """The episodes that have ended, closed; waits for something to be done if there is nothing else to do."""
        at_work: list[Future[Any]] = [*self._moving, *self._thinking]
        if not self._over and not (self._generator and self._generator.busy):
            wait(at_work, timeout=PATIENCE, return_when=FIRST_COMPLETED)
        for thought in [future for future in self._thinking if future.done()]:
            self._answer(self._thinking.pop(thought), thought.result()[0])
        self._settle()
        over, self._over = self._over, []
        for episode in over:
            del self.running[episode.spec.key]
            if self._generator:
                self._generator.forget(episode.spec.key)
            else:
                self._policy.forget([episode.spec.key])
            episode.environment.close()
        return over

    def _close(self) -> None:
        """End all that runs; a simulator that is at work is stopped."""
        self._closed = True
        if self._callers:
            self._callers.shutdown(wait=False, cancel_futures=True)
        for episode in self._moving.values():
            episode.environment.close()
        self._environments.shutdown(cancel_futures=True)
        for episode in self.running.values():
            if self._generator:
                self._generator.forget(episode.spec.key)
            episode.environment.close()

    def _answer(self, episode: _Running, reply: Reply) -> None:
        self._move(episode, lambda: self._take_turn(episode, reply))

    def _move(self, episode: _Running, work: Callable[[], None]) -> None:
        self._moving[self._environments.submit(self._surviving, episode, work)] = episode

    def _settle(self) -> None:
        """Sort those whose environment has answered: they wait for the policy, or are over."""
        for move in [future for future in self._moving if future.done()]:
            episode = self._moving.pop(move)
            move.result()
            (self._ready if episode.stop is None else self._over).append(episode)

    def _surviving(self, episode: _Running, work: Callable[[], None]) -> None:
        """Do it; if the simulator dies, begin the episode again, and give it up if that does not help."""
        try:
            work()
        except SimulatorError as error:
            if episode.restarts == RESTARTS or self._closed:
                episode.stop, episode.error = "environment error", str(error)
                return
            episode.environment.close()
            episode.restarts += 1
            episode.environment = self._benchmark.make(episode.spec)
            episode.steps, episode.progress = [], 0.0
            self._surviving(episode, lambda: self._start(episode))

    def _start(self, episode: _Running) -> None:
        episode.first_observation = episode.environment.reset()
        episode.messages = self._prompt.opening(
            episode.environment, episode.first_observation, wording_of(episode.spec)
        )

    def _take_turn(self, episode: _Running, reply: Reply) -> None:
        if reply.context_full:
            episode.stop = "context full"
            return
        said = without_thinking(reply.text)
        parsed = self._prompt.read(said)
        thought, action = parsed or ("", "")
        # The environment does not see a reply in the wrong form.
        malformed = StepResult(self._prompt.format_error(), episode.progress, success=False, done=False, valid=False)
        result = episode.environment.step(action) if parsed else malformed
        episode.progress = max(episode.progress, result.progress)
        episode.steps.append(
            EpisodeStep(
                thought=thought,
                action=action,
                reply=reply.text,
                observation=result.observation,
                valid=result.valid,
                format_error=parsed is None,
                progress=episode.progress,
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                turns_cut=reply.turns_cut,
                cut=reply.cut,
            )
        )
        episode.stop = self._stop(result, episode.steps)
        episode.messages = [
            *episode.messages,
            Message(role="assistant", content=said),
            Message(role="user", content=result.observation),
        ]

    def _stop(self, result: StepResult, steps: Sequence[EpisodeStep]) -> StopReason | None:
        """Why an episode ends after a step; None when it goes on."""
        if result.success:
            return "solved"
        if result.done:
            return "environment over"
        if self._stop_on_repeats and repeats(steps) >= self._stop_on_repeats:
            return "stuck"
        return "step limit" if len(steps) >= self._max_steps else None


class _AtOnce(Executor):
    """Does what it is given before it returns, under a lock: for what does not wait for processes or machines."""

    def __init__(self, one_at_a_time: Lock) -> None:
        self._one_at_a_time = one_at_a_time

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        """Call `fn`; an exception is raised here and now."""
        future: Future[Any] = Future()
        with self._one_at_a_time:
            future.set_result(fn(*args, **kwargs))
        return future


def _record(episode: _Running, model: str, model_digest: str) -> Episode:
    assert episode.stop is not None
    return Episode(
        **episode.spec.model_dump(),
        model=model,
        model_digest=model_digest,
        goal=episode.environment.goal,
        first_observation=episode.first_observation,
        steps=episode.steps,
        success=episode.stop == "solved",
        progress=episode.progress,
        stop=episode.stop,
        error=episode.error,
        restarts=episode.restarts,
    )
