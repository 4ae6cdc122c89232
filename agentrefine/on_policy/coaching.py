"""One game that a model plays and an expert corrects.

The model plays until it errs, once or a few times in a row. Then the expert, which knows no more than the observations
have shown, takes one turn, and the model plays on. After a number of turns the expert finishes, so that every game
ends with its goal reached.
"""

from collections import Counter
from functools import cache
from random import Random
from typing import Literal, NamedTuple

import yaml

from agentrefine.files import packaged_text, short_hash
from agentrefine.game.conversation import Message, instructions, opening, parse_reply, prompt, reply_text
from agentrefine.game.corrected import CorrectedGame, CorrectedTurn, Fault
from agentrefine.worlds.engine import Game
from agentrefine.worlds.language import first_person
from agentrefine.worlds.layout import World
from agentrefine.worlds.planner import find_plan
from agentrefine.worlds.player import Explorer, Reason
from agentrefine.worlds.thoughts import after_error, expert_thought

REPETITIONS = 3
"""So often an action of the model has brought nothing when it counts as a repetition."""


class Coaching(NamedTuple):
    """The rules of a corrected game.

    Attributes:
        model_turns: turns, the expert's corrections included, after which the expert finishes.
        errors_in_a_row: the expert answers when so many mistakes have come in a row, or fewer: 1 to this is drawn.
        stalled_turns: so many turns of the model in a row without a new fact or progress are faults.
        max_turns: a game that takes more is given up.
    """

    model_turns: int
    errors_in_a_row: int
    stalled_turns: int
    max_turns: int


class CoachedGame:
    """A game being played. Ask `expert_is_due`, then give it a reply of the model, or let the expert act.

    Attributes:
        messages: the dialogue so far, as the model reads it.
        turns: the turns so far.
        over: the goal is reached, or the game was given up.
    """

    def __init__(self, world: World, rules: Coaching, seed: int) -> None:
        self.world = world
        self.turns: list[CorrectedTurn] = []
        self.over = False
        self._rules = rules
        self._game = Game(world)
        self._expert = Explorer(self._game)
        self._rng = Random(int(short_hash("on_policy", str(seed), world.id), 16))
        self._patience_rng = Random(int(short_hash("patience", str(seed), world.id), 16))
        self._patience = self._drawn_patience()
        self._errors = 0
        self._first_observation = self._game.first_observation()
        self._cited = ""
        self._in_vain: Counter[str] = Counter()
        self._without_news = 0
        described = {template: action.does for template, action in world.rules.actions.items()}
        self.messages: list[Message] = opening(instructions(described), world.goal, self._first_observation)
        self._ask_expert()

    @property
    def won(self) -> bool:
        """Whether the goal is reached."""
        return self._game.completed

    @property
    def expert_is_due(self) -> bool:
        """Whether the next turn is the expert's: after as many faults as it waits for, and from `model_turns` on."""
        return len(self.turns) >= self._rules.model_turns or self._errors >= self._patience

    def take_reply(self, reply: str) -> None:
        """The model's turn."""
        parsed = parse_reply(reply)
        if parsed is None:
            self._without_news += 1
            answer = prompt("format_error.md").rstrip("\n")
            self._end_turn("model", reply, answer, "format_error", cited=self._drawn("format_error"))
            return
        action, game = parsed.action, self._game
        as_expert = action == self._reason.action
        refusal, known, progress = game.refusal(action), len(game.ever_known), game.progress
        outcome = game.step(action)
        news = as_expert or len(game.ever_known) > known or game.progress > progress
        self._without_news = 0 if news else self._without_news + 1
        self._in_vain[action] += not news
        fault: Fault | None = outcome.error
        cited = first_person(refusal.message) if refusal else ""
        if fault is None and not news and not outcome.completed:
            if self._in_vain[action] >= REPETITIONS:
                fault = "repetition"
            elif self._without_news >= self._rules.stalled_turns:
                fault = "no_progress"
                self._mark_stalled()
            cited = self._drawn(fault) if fault else ""
        self._end_turn("model", reply, outcome.observation, fault, as_expert=as_expert, cited=cited)

    def take_correction(self) -> None:
        """The expert's turn; after a fault its thought begins with what was wrong."""
        thought = expert_thought(self._game, self._reason, self._cited, self._rng)
        if self._cited:
            thought = after_error(thought, self._cited, self._rng)
        text = reply_text(thought, self._reason.action)
        observation = self._game.step(self._reason.action).observation
        self._without_news = 0
        self._patience = self._drawn_patience()
        self._end_turn("expert", text, observation, None, as_expert=True)

    def record(self, model: str, model_digest: str) -> CorrectedGame:
        """The game as it is now."""
        return CorrectedGame(
            id=short_hash(self.world.id, model_digest, *(turn.model_dump_json() for turn in self.turns)),
            world=self.world.id,
            model=model,
            model_digest=model_digest,
            goal=self.world.goal,
            instructions=self.messages[0].content,
            first_observation=self._first_observation,
            turns=self.turns,
        )

    def _end_turn(
        self,
        by: Literal["model", "expert"],
        text: str,
        observation: str,
        fault: Fault | None,
        *,
        as_expert: bool = False,
        cited: str = "",
    ) -> None:
        self.turns.append(CorrectedTurn(by=by, text=text, observation=observation, fault=fault, as_expert=as_expert))
        self.messages = [
            *self.messages,
            Message(role="assistant", content=text),
            Message(role="user", content=observation),
        ]
        self._cited = cited
        self._errors = self._errors + 1 if fault else 0
        self.over = self.won or len(self.turns) >= self._rules.max_turns or not self._ask_expert()

    def _ask_expert(self) -> bool:
        """Find out what the expert would do now; False where the goal cannot be reached any more.

        A model can give away what the goal needs.
        """
        goal = [condition.fact for condition in self.world.conditions]
        if find_plan(self.world.problem, self._game.state, goal) is None:
            return False
        self._expert.next_action()
        return True

    @property
    def _reason(self) -> Reason:
        """Why the expert would take the action that it would take now."""
        reason = self._expert.reason
        if reason is None:
            raise RuntimeError("the expert has not been asked")
        return reason

    def _mark_stalled(self) -> None:
        """The model's turns that led nowhere are faults, back to the last one that did not."""
        for index in range(len(self.turns) - 1, len(self.turns) - self._without_news, -1):
            if self.turns[index].fault is None:
                self.turns[index] = self.turns[index].model_copy(update={"fault": "no_progress"})

    def _drawn_patience(self) -> int:
        return self._patience_rng.randint(1, self._rules.errors_in_a_row)

    def _drawn(self, fault: Fault) -> str:
        return self._rng.choice(_citations()[fault])


@cache
def _citations() -> dict[str, list[str]]:
    return dict(yaml.safe_load(packaged_text("agentrefine.on_policy", "corrections.yaml")))
