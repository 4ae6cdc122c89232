"""Playing episodes: the ReAct loop between a policy and the environments of a benchmark, many episodes at once."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from agentrefine.agent.episode import Episode, EpisodeStep, StopReason, repeats
from agentrefine.agent.policy import Dialogue, Policy, Reply
from agentrefine.agent.prompting import PlayPrompt
from agentrefine.benchmarks.base import Benchmark, Environment, EpisodeSpec, SimulatorError, StepResult
from agentrefine.benchmarks.catalogue import wording_of
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.conversation import Message
from agentrefine.llm.thinking import without_thinking
from agentrefine.params.evaluation import Prompting

REACT = Prompting()
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

    The place of a finished episode is taken by the next one. A policy that answers in batches is called for all
    episodes that wait for it; any other one is called for each by itself, in a thread. Environments that live in
    processes of their own (`SimulatorBenchmark`) move side by side, and nobody waits for the slowest of them.

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
        answers in batches give the same order for the same replies.
    """
    game = _Game(policy, benchmark, PlayPrompt(benchmark.name, prompting), max_steps, stop_on_repeats, batch_size)
    waiting = deque(episodes)
    try:
        while waiting or game.running:
            while waiting and len(game.running) < batch_size:
                game.begin(waiting.popleft())
            game.ask()
            for episode in game.ended():
                yield _record(episode, policy.name, model_digest)
    finally:
        game.close()


class _Game:
    """The episodes that are being played, and who works on which: its environment, the policy, or nobody.

    Attributes:
        running: all of them, in the order in which they were begun.
    """

    def __init__(
        self,
        policy: Policy,
        benchmark: Benchmark,
        prompt: PlayPrompt,
        max_steps: int,
        stop_on_repeats: int | None,
        batch_size: int,
    ) -> None:
        self.running: list[_Running] = []
        self._policy = policy
        self._benchmark = benchmark
        self._prompt = prompt
        self._max_steps = max_steps
        self._stop_on_repeats = stop_on_repeats
        self._closed = False
        remote = isinstance(benchmark, SimulatorBenchmark)
        self._environments: Executor = ThreadPoolExecutor(batch_size) if remote else _AtOnce()
        self._callers: Executor = _AtOnce() if policy.batched else ThreadPoolExecutor(batch_size)
        self._moving: dict[Future[None], _Running] = {}
        self._thinking: dict[Future[list[Reply]], _Running] = {}
        self._ready: list[_Running] = []
        self._over: list[_Running] = []

    def begin(self, spec: EpisodeSpec) -> None:
        """Begin an episode."""
        episode = _Running(spec=spec, environment=self._benchmark.make(spec))
        self.running.append(episode)
        self._move(episode, lambda: self._start(episode))

    def ask(self) -> None:
        """Let the policy answer those that wait for it."""
        self._settle()
        asked, self._ready = self._ready, []
        dialogues = [Dialogue(episode.spec.key, episode.messages) for episode in asked]
        if not self._policy.batched:
            for episode, dialogue in zip(asked, dialogues, strict=True):
                self._thinking[self._callers.submit(self._policy.act, [dialogue])] = episode
        elif asked:
            for episode, reply in zip(asked, self._policy.act(dialogues), strict=True):
                self._answer(episode, reply)

    def ended(self) -> list[_Running]:
        """Wait until something that is at work is done, and give the episodes that have ended, closed."""
        at_work: list[Future[Any]] = [*self._moving, *self._thinking]
        if not self._over:
            wait(at_work, return_when=FIRST_COMPLETED)
        for thought in [future for future in self._thinking if future.done()]:
            self._answer(self._thinking.pop(thought), thought.result()[0])
        self._settle()
        over, self._over = self._over, []
        for episode in over:
            self.running.remove(episode)
            self._policy.forget([episode.spec.key])
            episode.environment.close()
        return over

    def close(self) -> None:
        """End all that runs; a simulator that is at work is stopped."""
        self._closed = True
        self._callers.shutdown(wait=False, cancel_futures=True)
        for episode in self._moving.values():
            episode.environment.close()
        self._environments.shutdown(cancel_futures=True)
        for episode in self.running:
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
    """Does what it is given before it returns: for what does not wait for other processes or machines."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        """Call `fn`; an exception is raised here and now."""
        future: Future[Any] = Future()
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
