"""What an agent reads before a game, and how its replies are read.

`prompt.md` in a benchmark's package introduces its games; `$form` stands for the form of a reply (`prompts/react.md` or
`prompts/act.md`), `$actions` for the actions of the episode. A benchmark without the file is introduced by
`prompts/game.md`, which is, word for word, what a training conversation begins with. `example.yaml` beside it is a
played example for 1-shot prompts; where evaluation draws every episode there is, the example's own lies beside it.
Benchmarks that differ by what follows an underscore (`worlds_layouts`, `worlds_families`) share a package.
"""

from functools import cache
from pathlib import Path
from string import Template
from typing import NamedTuple

import yaml
from pydantic import BaseModel

from agentrefine.benchmarks.base import Environment, EpisodeSpec
from agentrefine.errors import UserError
from agentrefine.files import packaged_path, packaged_text
from agentrefine.game import conversation
from agentrefine.game.conversation import Message, ParsedReply, listed_actions, parse_action, parse_reply
from agentrefine.params.evaluation import Prompting
from agentrefine.worlds.language import Paraphrase


class ExampleTurn(BaseModel, frozen=True, extra="forbid"):
    """One turn of an example.

    Example: `{"thought": "The key opens the chest.", "action": "take key", "observation": "You hold the key."}`
    """

    thought: str
    action: str
    observation: str


class Example(BaseModel, frozen=True, extra="forbid"):
    """A solved game, shown before the game that is played: `example.yaml` in a benchmark's package.

    Example: `{"episode": {"id": ..., ...}, "goal": "Open the chest.", "observation": "A hall.", "turns": [{...}, ...]}`

    Attributes:
        episode: what was played; evaluation never draws it.
        goal, observation: how it begins.
        turns: the agent's turns, each with what it saw then.
    """

    episode: EpisodeSpec
    goal: str
    observation: str
    turns: list[ExampleTurn]

    def perturbed(self, perturbation: Paraphrase) -> "Example":
        """The example with its actions perturbed, also where thoughts and observations repeat them. The goal stays."""
        turns = [
            ExampleTurn(
                thought=perturbation.repeat(turn.thought, turn.action),
                action=perturbation.render(turn.action),
                observation=perturbation.repeat(turn.observation, turn.action),
            )
            for turn in self.turns
        ]
        return self.model_copy(update={"turns": turns})

    def text(self, style: str) -> str:
        """The example as the agent reads it."""
        lines = [f"Goal: {self.goal}", self.observation]
        for turn in self.turns:
            thought = [f"Thought: {turn.thought}"] if style == "react" else []
            lines += [*thought, f"Action: {turn.action}", turn.observation]
        return "\n".join(lines)


class PlayPrompt(NamedTuple):
    """The prompt of a benchmark's games: the benchmark by its name, the form of a reply and the number of examples."""

    benchmark: str
    prompting: Prompting

    def opening(
        self, environment: Environment, observation: str, perturbation: Paraphrase | None = None
    ) -> list[Message]:
        """The messages before the agent's first turn: instructions, acknowledgement, goal with the first observation.

        Args:
            environment: the game, after its `reset`.
            observation: what the agent sees first.
            perturbation: of the game's actions, where they are not as in the example.

        Raises:
            UserError: an example is asked for and the benchmark has none.
        """
        form = play_prompt(f"{self.prompting.style}.md").rstrip("\n")
        introduction = Template(_introduction(self.benchmark)).substitute(
            form=form, actions=listed_actions(environment.actions)
        )
        if self.prompting.shots:
            shown = example(self.benchmark)
            shown = shown.perturbed(perturbation) if perturbation else shown
            introduction += play_prompt("example.md") + shown.text(self.prompting.style)
        return conversation.opening(introduction.rstrip("\n"), environment.goal, observation)

    def read(self, reply: str) -> ParsedReply | None:
        """The parts of a reply, or None for a format error."""
        return parse_reply(reply) if self.prompting.style == "react" else parse_action(reply)

    def format_error(self) -> str:
        """The answer to a reply in the wrong form."""
        react = self.prompting.style == "react"
        return (conversation.prompt("format_error.md") if react else play_prompt("act_format_error.md")).rstrip("\n")


@cache
def _introduction(benchmark: str) -> str:
    own = _package(benchmark) / "prompt.md"
    return own.read_text(encoding="utf-8") if own.is_file() else play_prompt("game.md")


@cache
def example(benchmark: str) -> Example:
    """The played example of a benchmark.

    Raises:
        UserError: it has none.
    """
    file = _package(benchmark) / "example.yaml"
    if not file.is_file():
        raise UserError(
            "no_example",
            f"evaluation.prompting.shots: there is no example for {benchmark} ({file}); set it to 0, or write one.",
            key="evaluation.prompting.shots",
            name=benchmark,
        )
    return Example.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))


def play_prompt(name: str) -> str:
    """A text that all benchmarks share: a file of `evaluation/prompts`."""
    return packaged_text("agentrefine.evaluation", "prompts", name)


def _package(benchmark: str) -> Path:
    return packaged_path("agentrefine.benchmarks", benchmark.partition("_")[0])
