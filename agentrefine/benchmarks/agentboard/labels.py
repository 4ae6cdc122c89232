"""AgentBoard's labels (Ma et al., NeurIPS 2024): `<folder>/<task>/test.jsonl`, one episode a line.

The keys are those of AgentBoard's README (Data Fields); of `additional_info` only what AgentBoard's own loader of the
task reads, and what says which episode a line is about. The files are a download of their own, under the GPL-2.

The expressions of labels are from outside: they are matched by google-re2, in time linear in the observation. re2 has
no lookahead, but AgentBoard's labels of AlfWorld begin with some, as in `^(?=.* you see)(?=.*a mug)`. Lookaheads at the
start say no more than that each of them matches there, so that they are read as one expression each.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentrefine.benchmarks.common import data_of
from agentrefine.errors import UserError, file_error
from agentrefine.files import first_problem, problem_key, read_records
from agentrefine.game.actions import linear_regex

DATA = data_of("agentboard", "agentboard.yaml")
TASKS: dict[str, str] = DATA["tasks"]
"""AgentBoard's names of the tasks, by our names of the benchmarks."""

Text = Annotated[str, Field(min_length=1)]
Patterns = Annotated[list[Text], Field(min_length=1)]
INFO = "additional_info"
"""The key that holds the level or the domain, the folder of the game, ..."""

Subtask = Annotated[Text, Field(validation_alias=AliasPath(INFO, "subtask"))]
_LOOKAHEAD = "(?="


def label_error(code: str, place: str, message: str, **values: object) -> UserError:
    """An error in a label. The sentence begins with the place, such as `data/babyai/test.jsonl, line 3`."""
    return UserError(code, f"{place}: {message}", place=place, **values)


class Label(BaseModel):
    """What every line holds; `id`, from 0, says for BabyAI, PDDL and Jericho which episode the line is about."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[int, Field(ge=0)]
    goal: Text
    difficulty: Literal["easy", "hard"]


class AlfWorldLabel(Label):
    """agentboard/environment/alfworld/alfworld_env.py; `subgoals` are regular expressions.

    Example: {"id": 0, "goal": "put a mug ...", "subgoals": ["You heat the mug"], "difficulty": "hard",
    "additional_info": {"description": "pick_heat_then_place_in_recep-Mug-.../trial_..."}}
    """

    subgoals: Patterns
    game: Annotated[str, Field(pattern=r"^[\w-]+/[\w-]+$", validation_alias=AliasPath(INFO, "description"))]


class SciWorldLabel(Label):
    """agentboard/environment/legacy/scienceworld/scienceworld_env.py; `subgoals` are regular expressions.

    Example: {"id": 0, "goal": "...", "subgoals": ["You focus on the crocodile"], "difficulty": "easy",
    "additional_info": {"env_name": "lifespan-longest-lived", "var": 93}}
    """

    subgoals: Patterns
    task: Annotated[Text, Field(validation_alias=AliasPath(INFO, "env_name"))]
    variation: Annotated[int, Field(ge=0, validation_alias=AliasPath(INFO, "var"))]


class BabyAILabel(Label):
    """agentboard/tasks/babyai.py.

    Example: {"id": 3, "goal": "go to the red ball", "subgoals": ["There is a red ball **", ...], "difficulty": "easy",
    "additional_info": {"subtask": "BabyAI-GoToRedBallGrey-v0"}}

    Attributes:
        subgoals: one or more ways to the goal, of equal length, each a list of phrases; in the file a plain list, a
            list of lists, or the keys `subgoals_1`, `subgoals_2`, ...
    """

    subgoals: Annotated[list[Patterns], Field(min_length=1)]
    subtask: Subtask

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, line: Any) -> Any:  # noqa: ANN401  a JSON value, not validated yet
        if not isinstance(line, dict):
            return line
        if "subgoals_1" in line:
            return {**line, "subgoals": [ways for key, ways in line.items() if "subgoals" in key]}
        ways = line.get("subgoals")
        plain = isinstance(ways, list) and all(isinstance(phrase, str) for phrase in ways)
        return {**line, "subgoals": [ways]} if plain else line

    @model_validator(mode="after")
    def _of_equal_length(self) -> "BabyAILabel":
        if len({len(way) for way in self.subgoals}) > 1:
            raise ValueError("the ways to the goal have different numbers of sub-goals")
        return self


class PddlLabel(Label):
    """agentboard/tasks/pddl.py, which takes nothing but the difficulty from the line.

    Example: {"id": 0, "goal": "...", "difficulty": "easy", "additional_info": {"subtask": "gripper"}}
    """

    subtask: Subtask


class JerichoLabel(Label):
    """agentboard/tasks/jericho.py; `subgoals` are passages of the story.

    Example: {"id": 11, "goal": "...", "subgoals": ["You open the mailbox.", ...], "difficulty": "hard"}
    """

    subgoals: Patterns
    first_observation: Annotated[str, Field(validation_alias=AliasPath(INFO, "init_obs"))] = ""


LabelT = TypeVar("LabelT", bound=Label)


def labels_file(folder: Path, benchmark: str) -> Path | None:
    """The file of a benchmark's labels, or None where the folder has none.

    Raises:
        UserError: the folder has labels of none of the tasks, so that it is not AgentBoard's data.
    """
    files = {name: folder / task / "test.jsonl" for name, task in TASKS.items()}
    if not any(file.is_file() for file in files.values()):
        key = "evaluation.data.agentboard"
        names = ", ".join(f"{task}/test.jsonl" for task in TASKS.values())
        message = f"there is none of {names}; let {key} name AgentBoard's folder data."
        raise file_error("file_missing", folder, message, key=key)
    return files[benchmark] if benchmark in files and files[benchmark].is_file() else None


def read_labels(file: Path, kind: type[LabelT]) -> Iterator[tuple[str, LabelT]]:
    """Each label of a file, after its place in words, such as `data/babyai/test.jsonl, line 3`.

    Raises:
        UserError: a line is no label of this kind, or has the id of an earlier one.
    """
    places: dict[int, str] = {}
    for place, value in read_records(file, "let evaluation.data.agentboard name AgentBoard's folder data"):
        try:
            label = kind.model_validate(value)
        except ValidationError as error:
            raise label_error("bad_record", place, first_problem(error), key=problem_key(error)) from error
        earlier = places.setdefault(label.id, place)
        if earlier != place:
            message = f"id {label.id} is that of {earlier} too; number them apart."
            raise label_error("duplicate_id", place, message, id=label.id, earlier=earlier)
        yield place, label


class Subgoals:
    """The sub-goals of an episode, some of them still open.

    Attributes:
        total: how many there are.
    """

    def __init__(self, subgoals: Iterable[Any]) -> None:
        self._open = list(subgoals)
        self.total = len(self._open)

    def share(self, further: int = 0) -> float:
        """The share that has been reached so far, where `further` ones are reached in another way, and not yet."""
        return (self.total - len(self._open)) / (self.total + further)


class Expressions(Subgoals):
    """Sub-goals as regular expressions, in any order, as many at once as an observation matches (AlfWorld, SciWorld).

    Raises:
        UserError: google-re2 cannot take one; names `place`.
    """

    def __init__(self, expressions: Sequence[str], place: str = "") -> None:
        super().__init__(_compiled(expression, place) for expression in expressions)

    def read(self, observation: str) -> None:
        """Count what an observation matches."""
        self._open = [parts for parts in self._open if not all(part.search(observation) for part in parts)]


class SubgoalPhrases(Subgoals):
    """Sub-goals as phrases, at most one an observation (BabyAI, Jericho).

    There may be several ways to the goal: lists of equal length, whose phrases at the same place are the same sub-goal
    in other words. An observation meets a phrase where `shows(observation, phrase)` is true.
    """

    def __init__(self, ways: Sequence[Sequence[str]], shows: Callable[[str, str], bool]) -> None:
        super().__init__(zip(*ways, strict=True))
        self._shows = shows

    def read(self, observation: str) -> None:
        """Count the first open sub-goal that an observation meets."""
        for phrases in self._open:
            if any(self._shows(observation, phrase) for phrase in phrases):
                self._open.remove(phrases)
                return


def sentence_shows(observation: str, phrase: str) -> bool:
    """Whether a sentence holds all parts of a phrase, split at `**` or else `*` (`match_style` of babyai_env.py)."""
    parts = [part.strip(".") for part in phrase.strip().split("**" if "**" in phrase else "*")]
    return any(all(part in sentence for part in parts) for sentence in observation.split("."))


def passage_shows(observation: str, phrase: str) -> bool:
    """Whether a text holds a phrase, punctuation left out (`match_style` of agentboard/environment/jericho_env.py)."""
    plain_phrase, plain_text = (re.sub(r"[^a-zA-Z0-9\s]", "", text) for text in (phrase, observation))
    return plain_phrase in plain_text


def _compiled(expression: str, place: str) -> list[Any]:
    """The expressions that have to match together for a sub-goal."""
    try:
        return [linear_regex(part) for part in _parts(expression)]
    except ValueError as error:
        message = (
            f"the sub-goal {expression[:100]!r} is no expression that google-re2 can match ({error}); write it "
            "without backreferences, and lookaheads only behind a ^ at its start."
        )
        raise label_error("bad_expression", place, message, value=expression[:100]) from error


def _parts(expression: str) -> list[str]:
    """`^(?=A)(?=B)C` as `^(?:A)`, `^(?:B)` and `^C`; any other expression as it is."""
    rest, parts = expression.removeprefix("^"), []
    while expression.startswith("^") and rest.startswith(_LOOKAHEAD) and (end := _end_of_group(rest)):
        parts.append(f"^(?:{rest[len(_LOOKAHEAD) : end]})")
        rest = rest[end + 1 :]
    # Lookaheads that repeat, are not closed or have an alternative are no conjunction: re2 refuses the whole.
    if not parts or rest.startswith(("*", "+", "?", "{", _LOOKAHEAD)) or "|" in rest:
        return [expression]
    return [*parts, f"^{rest}"] if rest else parts


def _end_of_group(expression: str) -> int | None:
    """Where the group ends that an expression begins with; None if it does not end."""
    for end, sign in enumerate(expression):
        if sign == ")":
            with suppress(re.error):
                re.compile(expression[: end + 1])
                return end
    return None
