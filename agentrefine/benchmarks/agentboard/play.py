"""Episodes of other simulators as AgentBoard plays and measures them: an environment of ours, with a label over it."""

import re
from collections.abc import Mapping
from typing import Generic, TypeVar

from agentrefine.benchmarks.agentboard.labels import DATA, AlfWorldLabel, JerichoLabel, LabelT, PddlLabel, SciWorldLabel
from agentrefine.benchmarks.agentboard.subgoals import Expressions, SubgoalPhrases, passage_shows
from agentrefine.benchmarks.base import Environment, StepResult
from agentrefine.benchmarks.jericho.benchmark import TEXTS as STORY_TEXTS
from agentrefine.benchmarks.pddl.benchmark import LOOK, PddlEnvironment
from agentrefine.benchmarks.simulators import CHECK, LISTING, command

PlayedT = TypeVar("PlayedT", bound=Environment)

_MAX_COMMAND_WORDS = 20
"""Words of a command that reach a story's interpreter (`parse_action` of agentboard/tasks/jericho.py)."""


class LabelledGame(Generic[PlayedT, LabelT]):
    """An environment of ours with a label over it: the goal is the label's, the actions are the environment's.

    Args:
        played: the environment.
        label: what AgentBoard says of the episode.
        place: where the label stands, for errors in its expressions.
    """

    def __init__(self, played: PlayedT, label: LabelT, place: str = "") -> None:
        self.goal = label.goal
        self._played = played
        self._label = label
        self._place = place

    @property
    def actions(self) -> Mapping[str, str]:
        """Templates and descriptions of the actions."""
        return self._played.actions

    def possible(self) -> list[str]:
        """Actions that are possible now."""
        return self._played.possible()

    def close(self) -> None:
        """Free what the environment holds."""
        self._played.close()


class AlfWorldGame(LabelledGame[Environment, AlfWorldLabel]):
    """A labelled game of ALFWorld (agentboard/environment/alfworld/alfworld_env.py, agentboard/tasks/alfworld.py).

    AgentBoard played games made before ALFWorld 0.4, which say `put` for what newer ones call `move`. Its labels match
    on the old words, so the observations of newer games are rewritten. `look` repeats what was last seen. Valid: the
    action is possible now, or a look at the actions.
    """

    @property
    def actions(self) -> Mapping[str, str]:
        """Templates and descriptions of the actions, in AgentBoard's words."""
        words = {LISTING: CHECK, "move {object} to {place}": "put {object} in/on {place}"}
        return {words.get(action, action): does for action, does in self._played.actions.items()}

    def reset(self) -> str:
        """Start the game and return the first observation."""
        self._subgoals = Expressions(self._label.subgoals, self._place)
        self._seen = self._played.reset()
        self._newer = "move {object} to {place}" in self._played.actions
        return self._seen

    def step(self, action: str) -> StepResult:
        """Take one action."""
        words = _in_or_on(action.strip().removesuffix(".").lower())
        if words == CHECK:
            result = self._played.step(LISTING)
            return self._measured(result._replace(observation=_older(result.observation)))
        if self._newer:
            words = re.sub(r"^put (.+) in/on (.+)$", r"move \1 to \2", words)
        result = self._played.step(words)
        observation = re.sub(r"^You move the (.+) to the (.+)\.", r"You put the \1 in/on the \2.", result.observation)
        if words == "look":
            observation = self._seen
        elif ("go to" in words or "open" in words) and "Nothing happens" not in observation:
            self._seen = observation
        return self._measured(result._replace(observation=re.sub(r"^You arrive at loc .*?\. ", "", observation)))

    def possible(self) -> list[str]:
        """The commands that the game admits now, in AgentBoard's words."""
        return [_older(own) for own in self._played.possible()]

    def _measured(self, result: StepResult) -> StepResult:
        """With AgentBoard's progress: the won game counts as one more sub-goal."""
        self._subgoals.read(result.observation)
        share = self._subgoals.reached / (self._subgoals.total + 1)
        return result._replace(progress=1.0 if result.done else share)


class SciWorldGame(LabelledGame[Environment, SciWorldLabel]):
    """A labelled variation, played by `sciworld.AgentBoardSimulator`; it ends when all sub-goals are reached."""

    def reset(self) -> str:
        """Start the variation and return the first observation, the inventory with it."""
        self._subgoals = Expressions(self._label.subgoals, self._place)
        return self._played.reset()

    def step(self, action: str) -> StepResult:
        """Take one action."""
        result = self._played.step(action)
        if command(action) != CHECK:
            self._subgoals.read(result.observation)
        share = self._subgoals.reached / self._subgoals.total
        return result._replace(progress=share, success=share == 1, done=share == 1)


class PddlGame(LabelledGame[PddlEnvironment, PddlLabel]):
    """A labelled problem (agentboard/environment/pddl_env/pddl_env.py). Observations are in our words.

    Progress is 0 until an action has changed something, even where some of the goal holds from the start.
    """

    _progress = 0.0

    def reset(self) -> str:
        """Start the problem and return the first observation."""
        self._progress = 0.0
        return self._played.reset()

    def step(self, action: str) -> StepResult:
        """Take one action."""
        words = action.lower()
        looks = next((look for part, look in (("check", CHECK), (LOOK, LOOK)) if part in words), None)
        result = self._played.step(looks or action)
        if result.valid and not looks:
            self._progress = max(self._progress, self._played.share())
        return result._replace(progress=self._progress)


class JerichoGame(LabelledGame[Environment, JerichoLabel]):
    """A labelled story (agentboard/environment/jericho_env.py). Valid: the story did not answer with a remark in `[!`.

    The list of possible actions is Jericho's own where it can make one.
    """

    @property
    def actions(self) -> Mapping[str, str]:
        """Templates and descriptions of the actions."""
        own: dict[str, str] = DATA["jericho"]["actions"]
        return {**self._played.actions, **own}

    def reset(self) -> str:
        """Start the story and return the first observation: the label's, where it has one."""
        self._subgoals = SubgoalPhrases([self._label.subgoals], passage_shows)
        own = self._played.reset()
        return self._label.additional_info.init_obs or _on_one_line(own)

    def step(self, action: str) -> StepResult:
        """Take one action."""
        words = action.partition(",")[0].partition(".")[0]
        words = " ".join(words.split(" ")[:_MAX_COMMAND_WORDS])
        if "check" in words.lower() and "action" in words.lower():
            result = self._played.step(LISTING)
            return result._replace(progress=self._share, success=False, done=False, valid=True)
        result = self._played.step(words)
        observation = _on_one_line(result.observation)
        self._subgoals.read(observation)
        won = self._share == 1
        valid = "[!" not in observation and observation != STORY_TEXTS["unknown"]
        return StepResult(observation, self._share, success=won, done=won or result.done, valid=valid)

    @property
    def _share(self) -> float:
        return self._subgoals.reached / self._subgoals.total


def _older(words: str) -> str:
    """Commands of today's games as those before ALFWorld 0.4 have them."""
    return re.sub(r"\bmove (\w+ \d+) to (\w+ \d+)", r"put \1 in/on \2", words)


def _in_or_on(action: str) -> str:
    """`put mug in safe`, `put mug on desk` as older games word it (`parseAction` of agentboard/tasks/alfworld.py)."""
    if "put" not in action:
        return action
    return action.replace(" in ", " in/on ") if " in " in action else action.replace(" on ", " in/on ")


def _on_one_line(said: str) -> str:
    """A story's text as AgentBoard shows it (`clean_up_text`)."""
    return re.sub(r"\[Your score .*?\]", "", re.sub(r" {2,}", " ", said.replace("\n", " ")))
