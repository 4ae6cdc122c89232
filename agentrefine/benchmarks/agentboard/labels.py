"""AgentBoard's labels (Ma et al., NeurIPS 2024): `<folder>/<task>/test.jsonl`, one episode a line.

The keys are those of AgentBoard's README (Data Fields); of `additional_info` only what AgentBoard's own loader of the
task reads, and what says which episode a line is about. The files are a download of their own, under the GPL-2.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentrefine.benchmarks.simulators import data_of
from agentrefine.errors import UserError
from agentrefine.files import invalid_value, read_records

DATA = data_of("agentboard", "agentboard.yaml")
TASKS: dict[str, str] = DATA["tasks"]
"""AgentBoard's names of the tasks, by our names of the benchmarks."""

Text = Annotated[str, Field(min_length=1)]
Patterns = Annotated[list[Text], Field(min_length=1)]


class Label(BaseModel):
    """What every line holds.

    Attributes:
        id: the line's number from 0; for BabyAI, PDDL and Jericho it says which episode the line is about.
        goal: the task in words.
        difficulty: `easy` or `hard`.
    """

    model_config = ConfigDict(frozen=True)

    id: Annotated[int, Field(ge=0)]
    goal: Text
    difficulty: Literal["easy", "hard"]


class AlfWorldLabel(Label):
    """agentboard/environment/alfworld/alfworld_env.py; `subgoals` are regular expressions."""

    class Info(BaseModel):
        """The game's folder in `valid_unseen`."""

        description: Annotated[str, Field(pattern=r"^[\w-]+/[\w-]+$")]

    subgoals: Patterns
    additional_info: Info


class SciWorldLabel(Label):
    """agentboard/environment/legacy/scienceworld/scienceworld_env.py; `subgoals` are regular expressions."""

    class Info(BaseModel):
        """The task and its variation."""

        env_name: Text
        var: Annotated[int, Field(ge=0)]

    subgoals: Patterns
    additional_info: Info


class SubtaskInfo(BaseModel):
    """`additional_info` of BabyAI and PDDL: the level or the domain."""

    subtask: Text


class BabyAILabel(Label):
    """agentboard/tasks/babyai.py.

    Attributes:
        subgoals: one or more ways to the goal, of equal length, each a list of phrases; in the file a plain list, a
            list of lists, or the keys `subgoals_1`, `subgoals_2`, ...
    """

    subgoals: Annotated[list[Patterns], Field(min_length=1)]
    additional_info: SubtaskInfo

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
    """agentboard/tasks/pddl.py, which takes nothing but the difficulty from the line."""

    additional_info: SubtaskInfo


class JerichoLabel(Label):
    """agentboard/tasks/jericho.py; `subgoals` are passages of the story."""

    class Info(BaseModel):
        """AgentBoard's words for the first observation, where the line has them."""

        init_obs: str = ""

    subgoals: Patterns
    additional_info: Info = Info()


LabelT = TypeVar("LabelT", bound=Label)


def labels_file(folder: Path, benchmark: str) -> Path | None:
    """The file of a benchmark's labels, or None where the folder has none.

    Raises:
        UserError: the folder has labels of none of the tasks, so that it is not AgentBoard's data.
    """
    files = {name: folder / task / "test.jsonl" for name, task in TASKS.items()}
    if not any(file.is_file() for file in files.values()):
        raise UserError(
            "file_missing",
            f"{folder}: there is none of {', '.join(f'{task}/test.jsonl' for task in TASKS.values())}; let "
            "evaluation.data.agentboard name AgentBoard's folder data.",
            file=folder,
            key="evaluation.data.agentboard",
        )
    return files[benchmark] if benchmark in files and files[benchmark].is_file() else None


def read_labels(file: Path, kind: type[LabelT]) -> Iterator[tuple[str, LabelT]]:
    """Each label of a file, after its place in words, such as `data/babyai/test.jsonl, line 3`.

    Raises:
        UserError: a line is no label of this kind, or has the id of an earlier one.
    """
    places: dict[int, str] = {}
    for record in read_records(file, "let evaluation.data.agentboard name AgentBoard's folder data"):
        try:
            label = kind.model_validate(record.value)
        except ValidationError as error:
            raise invalid_value(error, record.place, code="bad_record", place=record.place) from error
        if label.id in places:
            raise UserError(
                "duplicate_id",
                f"{record.place}: id {label.id} is that of {places[label.id]} too; number them apart.",
                place=record.place,
                id=label.id,
                earlier=places[label.id],
            )
        places[label.id] = record.place
        yield record.place, label
