"""HotpotQA (Yang et al., EMNLP 2018) as a game: search, look up and finish over each question's own paragraphs.

The actions are ReAct's (Yao et al., ICLR 2023) in our form: `search Ada Lovelace` for `search[Ada Lovelace]`, which is
understood too. Nothing is fetched from Wikipedia: a question brings its paragraphs, those with the answer and others.

The questions are those of the user's file (`evaluation.data.hotpotqa`): JSON in the form of the
official `hotpot_dev_distractor_v1.json`, or with lists for columns as in the hub's `hotpotqa/hotpot_qa`. Without one
they are twelve of this package, about islands that do not exist.
"""

import random
import re
import string
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, StepResult
from agentrefine.benchmarks.common import DrawnBenchmark, round_robin
from agentrefine.errors import UserError, file_error
from agentrefine.files import first_problem, packaged_path, problem_key, read_records, short_hash

ACTIONS = {
    "search {title}": "Read the paragraph with this title; if there is none, similar titles are named.",
    "lookup {keyword}": "Read the next sentence with this keyword in the paragraph that you read last.",
    "finish {answer}": "Answer the question in as few words as possible; this ends the game.",
}
SENTENCES = 5
"""Sentences of a paragraph that a search shows, as in ReAct; `lookup` finds the others too."""

SIMILAR = 5
"""Titles that a search names where it finds none."""

_OWN_QUESTIONS = packaged_path("agentrefine.benchmarks", "hotpotqa", "merrow_isles.json")
_REMEDY = "let evaluation.data.hotpotqa name HotpotQA's distractor JSON"
_ACTION = re.compile(r"(search|lookup|finish)(?:\s*\[(.*)\]|\s+(.*))", re.IGNORECASE | re.DOTALL)
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_CLOSED = {"yes", "no", "noanswer"}


def normalize_answer(text: str) -> str:
    """Lower case, without punctuation, without articles, single spaces: in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def f1_score(answer: str, right: str) -> float:
    """Harmonic mean of precision and recall of the words; 0 where only one of the two is yes, no or noanswer."""
    given, wanted = normalize_answer(answer), normalize_answer(right)
    if given != wanted and not _CLOSED.isdisjoint((given, wanted)):
        return 0.0
    given_words, wanted_words = given.split(), wanted.split()
    shared = sum((Counter(given_words) & Counter(wanted_words)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(given_words), shared / len(wanted_words)
    return 2 * precision * recall / (precision + recall)


class HotpotQuestion(BaseModel):
    """One question with its paragraphs.

    Example: {"_id": "5a8b...", "question": "...", "answer": "yes", "type": "comparison", "supporting_facts":
    [["Ed Wood", 0], ...], "context": [["Ed Wood", ["Edward Davis Wood Jr. was ...", ...]], ...]}

    Attributes:
        id: the data set's id, or one made from the question where the file has none.
        question: the question.
        answer: the right answer.
        type: `bridge` or `comparison`.
        supporting: titles of the paragraphs that the answer follows from, in the file's order.
        paragraphs: sentences by title.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    question: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    type: str = Field(min_length=1)
    supporting: list[str]
    paragraphs: dict[str, list[str]] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _from_either_form(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Both forms of the file: rows as lists, or columns as lists."""
        context, facts = given["context"], given["supporting_facts"]
        rows = zip(context["title"], context["sentences"], strict=True) if isinstance(context, dict) else context
        titles = facts["title"] if isinstance(facts, dict) else [title for title, _ in facts]
        return {
            "id": given.get("_id") or given.get("id") or short_hash(str(given["question"]), str(given["answer"])),
            "question": given["question"],
            "answer": given["answer"],
            "type": given["type"],
            "supporting": list(dict.fromkeys(titles)),
            "paragraphs": dict(rows),
        }


class HotpotEnvironment:
    """One question. Valid: a search for anything, a lookup that finds a sentence, a finish."""

    def __init__(self, question: HotpotQuestion) -> None:
        self.actions = ACTIONS
        self.goal = f"Answer the question: {question.question}"
        self._question = question
        self._titles = {_plain(title): title for title in question.paragraphs}
        self.reset()

    def reset(self) -> str:
        """Start the episode and return the first observation."""
        self._sentences: list[str] = []
        self._keyword = ""
        self._shown = 0
        self._progress, self._success, self._over = 0.0, False, False
        return f"There are {len(self._titles)} paragraphs to search."

    def step(self, action: str) -> StepResult:
        """Take one action of the agent."""
        match = _ACTION.fullmatch(action.strip())
        value = " ".join((match.group(2) or match.group(3) or "").split()) if match else ""
        if self._over:
            return self._result("The game is over.", valid=False)
        if match is None or not value:
            return self._result(f"This action is not known. The actions are: {', '.join(ACTIONS)}.", valid=False)
        verbs = {"search": self._search, "lookup": self._lookup, "finish": self._finish}
        return verbs[match.group(1).lower()](value)

    def possible(self) -> list[str]:
        """A search for each title, a lookup of each word of the paragraph read last, each title as an answer."""
        if self._over:
            return []
        words = dict.fromkeys(re.findall(r"\w+", " ".join(self._sentences)))
        seen = [sentence for sentence in self._sentences if self._keyword in sentence.casefold()]
        lookups = [word for word in words if word.casefold() != self._keyword or self._shown < len(seen)]
        titles = self._question.paragraphs
        return [
            *(f"search {title}" for title in titles),
            *(f"lookup {word}" for word in lookups),
            *(f"finish {title}" for title in titles),
        ]

    def close(self) -> None:
        """Nothing to free."""

    def _search(self, title: str) -> StepResult:
        found = self._titles.get(_plain(title))
        if found is None:
            similar = ", ".join(self._similar(title))
            return self._result(f"Could not find {title[:100]}. Similar: {similar}.", valid=True)
        self._sentences = [sentence.strip() for sentence in self._question.paragraphs[found]]
        self._keyword, self._shown = "", 0
        return self._result(" ".join(self._sentences[:SENTENCES])[:2000] or "The paragraph is empty.", valid=True)

    def _similar(self, title: str) -> list[str]:
        """The titles nearest to what was searched for: those that share most words, then most letters."""
        wanted = _plain(title[:100])
        words = set(wanted.split())

        def nearness(plain: str) -> tuple[int, float]:
            return len(words & set(plain.split())), SequenceMatcher(None, wanted, plain, autojunk=False).ratio()

        nearest = sorted(self._titles, key=nearness, reverse=True)[:SIMILAR]
        return [self._titles[plain][:100] for plain in nearest]

    def _lookup(self, keyword: str) -> StepResult:
        if not self._sentences:
            return self._result("There is no paragraph to look in. Search first.", valid=False)
        if keyword.casefold() != self._keyword:
            self._keyword, self._shown = keyword.casefold(), 0
        results = [sentence for sentence in self._sentences if self._keyword in sentence.casefold()]
        if self._shown >= len(results):
            return self._result("No more results." if results else "No results.", valid=False)
        self._shown += 1
        return self._result(f"(Result {self._shown} / {len(results)}) {results[self._shown - 1][:2000]}", valid=True)

    def _finish(self, answer: str) -> StepResult:
        self._over = True
        self._success = normalize_answer(answer) == normalize_answer(self._question.answer)
        self._progress = f1_score(answer, self._question.answer)
        return self._result(f"The answer is {'right' if self._success else 'not right'}.", valid=True)

    def _result(self, observation: str, *, valid: bool) -> StepResult:
        return StepResult(observation, self._progress, success=self._success, done=self._over, valid=valid)


class HotpotQA(DrawnBenchmark):
    """The questions of a file, of this package's if none is given."""

    name = "hotpotqa"
    progress_definition = "F1 of the answer's words, by HotpotQA's normalisation; success is an exact match"

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or _OWN_QUESTIONS

    def drawn(self, seed: int) -> Iterator[EpisodeSpec]:
        """One question of each type, in an order drawn by `seed`, then a second of each, ...

        `task` is the question's type, `seed` its position in the file.
        """
        by_type: dict[str, list[int]] = {}
        for position, given in enumerate(self._rows):
            kind = given.get("type") if isinstance(given, dict) else None
            by_type.setdefault(str(kind), []).append(position)
        rng = random.Random(short_hash("hotpotqa", str(seed)))
        for positions in by_type.values():
            rng.shuffle(positions)
        for position in round_robin(by_type[kind] for kind in sorted(by_type)):
            question = self._question(position)
            yield EpisodeSpec(id=f"hotpotqa.{question.id}", benchmark=self.name, task=question.type, seed=position)

    def make(self, episode: EpisodeSpec) -> HotpotEnvironment:
        """The environment of one episode."""
        return HotpotEnvironment(self._asked(episode))

    def gold(self, episode: EpisodeSpec) -> list[str]:
        """A search for each supporting paragraph, then the answer."""
        question = self._asked(episode)
        missing = [title for title in question.supporting if title not in question.paragraphs]
        if missing:
            raise NoSolutionError(f"the question has no paragraph {missing[0]!r}, from which its answer follows")
        return [*(f"search {title}" for title in question.supporting), f"finish {question.answer}"]

    def _asked(self, episode: EpisodeSpec) -> HotpotQuestion:
        if episode.seed < len(self._rows):
            question = self._question(episode.seed)
            if episode.id == f"hotpotqa.{question.id}":
                return question
        message = f"the question {episode.id} is not in place {episode.seed}; name the file that had it."
        raise file_error("episode_missing", self._file, message, name=episode.id)

    @cached_property
    def _rows(self) -> list[Any]:
        """The questions of the file as they are."""
        rows = [record.value for record in read_records(self._file, _REMEDY)]
        if not rows:
            raise file_error("empty_file", self._file, "holds no question; give HotpotQA's distractor JSON.")
        return rows

    def _question(self, position: int) -> HotpotQuestion:
        given, number = self._rows[position], position + 1
        if isinstance(given, dict) and not given.get("answer"):
            message = (
                f"{self._file}, question {number}: has no answer, as in HotpotQA's test split; give the development "
                "split (hotpot_dev_distractor_v1.json)."
            )
            raise UserError("missing_key", message, file=self._file, question=number, key="answer")
        try:
            return HotpotQuestion.model_validate(given)
        except ValidationError as error:
            key, problem = problem_key(error), first_problem(error)
        except (KeyError, TypeError, ValueError) as error:
            key = str(error.args[0]) if isinstance(error, KeyError) else ""
            problem = f"a key is missing or has another form ({error})."
        message = f"{self._file}, question {number}: {problem}"
        raise UserError("bad_record", message, file=self._file, question=number, key=key)


def _plain(title: str) -> str:
    return " ".join(title.casefold().split())
