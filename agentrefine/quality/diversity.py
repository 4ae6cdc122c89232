"""How different the games of a data set are: their personas, actions and goals."""

import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from agentrefine.files import short_hash
from agentrefine.game.script import Script
from agentrefine.game.text import five_letter_runs, words
from agentrefine.game.trajectory import DMTurn, PlayerTurn, Trajectory

PERMUTATIONS = 128
"""Signature length: the estimated similarity has a standard error of at most 1 / (2 * sqrt(128)) = 0.044."""

RECALL_FIRST = (0.05, 0.95)
"""The weights of false candidates and missed ones in the choice of bands: candidates are compared again afterwards."""

MAX_EXAMPLES = 10
"""The most examples of near-duplicate personas that are kept."""

GOAL_OPENING_WORDS = 3
"""The first words of a goal that are counted together."""


class Duplicates(NamedTuple):
    """Which earlier text a text repeats; None where it repeats none.

    Attributes:
        copy_of: id of the first one that is the same.
        near_duplicate_of: id of the most similar earlier one at or above the similarity asked for.
    """

    copy_of: str | None
    near_duplicate_of: str | None


class DuplicateIndex:
    """The texts seen so far, by the Jaccard similarity of their shingles (`words.three_word_runs`, for one).

    MinHash signatures are compared within the candidates that locality-sensitive hashing proposes (Broder 1997;
    Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3). A text that repeats another is not indexed
    itself, so a thousand copies cost no more than one. Keeps about 3 KB per distinct text.

    Args:
        similarity: Jaccard similarity in (0, 1] from which two texts are near-duplicates.
        shingles: the parts of a text that are compared.
    """

    def __init__(self, similarity: float, shingles: Callable[[str], set[str]]) -> None:
        self._shingles = shingles
        self._similarity = similarity
        self._lsh = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS, weights=RECALL_FIRST)
        self._permutations = MinHash(num_perm=PERMUTATIONS).permutations
        self._signatures: list[NDArray[np.uint32]] = []
        self._ids: list[str] = []
        self._first_with_text: dict[str, str] = {}

    def add(self, identity: str, text: str) -> Duplicates:
        """Compare a text with those before it and remember it under an id."""
        key = short_hash(text)
        original = self._first_with_text.get(key)
        if original is not None:
            return Duplicates(original, original)
        self._first_with_text[key] = identity
        return Duplicates(None, self._near(identity, text))

    def _near(self, identity: str, text: str) -> str | None:
        sketch = MinHash(permutations=self._permutations, hashfunc=zlib.crc32, scheme="affine32")
        sketch.update_batch([shingle.encode() for shingle in self._shingles(text)])
        candidates: list[int] = sorted(self._lsh.query(sketch))
        if candidates:
            likeness = np.mean(np.stack([self._signatures[c] for c in candidates]) == sketch.hashvalues, axis=1)
            best = int(np.argmax(likeness))
            if likeness[best] >= self._similarity:
                return self._ids[candidates[best]]
        self._lsh.insert(len(self._ids), sketch)
        self._signatures.append(sketch.hashvalues)
        self._ids.append(identity)
        return None


def game_text(trajectory: Trajectory) -> str:
    """What distinguishes one game from another: the goal, then each action and observation."""
    spoken = (turn.observation if isinstance(turn, DMTurn) else turn.action for turn in trajectory.turns)
    return "\n".join((trajectory.script.goal, *spoken))


def script_text(script: Script) -> str:
    """What distinguishes one script from another: the environment's names and values, the goal and its conditions.

    The actions are left out: scripts of one kind of game share them, word for word.
    """
    environment = {name: value for name, value in script.environment.items() if name != "world"}
    return "\n".join((" ".join(_names_and_values(environment)), script.goal, *script.completion_conditions))


def _names_and_values(node: object) -> Iterator[str]:
    if isinstance(node, dict | list):
        for item in chain.from_iterable(node.items()) if isinstance(node, dict) else node:
            yield from _names_and_values(item)
    else:
        yield str(node)


class FeatureExample(NamedTuple):
    """A trajectory that shows a feature, and the text that it shows it by."""

    trajectory_id: str
    text: str


class Tally:
    """Counts texts, and remembers where each stood first."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, text: str, trajectory_id: str) -> None:
        """Count a text of a trajectory."""
        self.counts[text] += 1
        self._first.setdefault(text, trajectory_id)

    @property
    def largest_share(self) -> float:
        """The share of the most common text; 0 when there is none."""
        return max(self.counts.values(), default=0) / max(1, self.counts.total())

    @property
    def most_common(self) -> list[FeatureExample]:
        """The most common text, by the first trajectory that has it; of several the first one met."""
        return [
            FeatureExample(self._first[text], f'{count} times "{text}"') for text, count in self.counts.most_common(1)
        ]


class Diversity:
    """Counts what the diversity of a data set is computed from, as trajectories stream by.

    Shares and entropies are measured, not n-gram ratios (distinct-n of Li et al. 2016), which fall as a data set grows,
    whatever is in it: one threshold could not serve 500 games and 64,000.

    Args:
        persona_similarity: Jaccard similarity of five-letter runs from which two personas are near-duplicates.
    """

    def __init__(self, persona_similarity: float) -> None:
        self._verbs: Counter[str] = Counter()
        self._actions: set[bytes] = set()
        self._templates: set[str] = set()
        self._action_sets = Tally()
        self._goals: set[bytes] = set()
        self._goal_openings: Counter[str] = Counter()
        self._goal_forms = Tally()
        self._personas = Tally()
        self._persona_index = DuplicateIndex(persona_similarity, five_letter_runs)
        self._near_personas = 0
        self._near_persona_examples: list[FeatureExample] = []

    def add(self, trajectory: Trajectory) -> None:
        """Count one trajectory's persona, goal and actions."""
        script, persona = trajectory.script, trajectory.persona
        self._personas.add(persona, trajectory.id)
        if self._personas.counts[persona] == 1:
            earlier = self._persona_index.add(persona, " ".join(words(persona)) or persona).near_duplicate_of
            if earlier is not None:
                self._near_personas += 1
                if len(self._near_persona_examples) < MAX_EXAMPLES:
                    example = FeatureExample(trajectory.id, f'"{persona}" resembles "{earlier}"')
                    self._near_persona_examples.append(example)
        self._goals.add(_fingerprint(script.goal))
        self._goal_openings[" ".join(words(script.goal)[:GOAL_OPENING_WORDS])] += 1
        self._goal_forms.add(goal_form(script), trajectory.id)
        self._templates.update(script.available_actions)
        self._action_sets.add(", ".join(sorted(script.available_actions)), trajectory.id)
        for turn in trajectory.turns:
            if isinstance(turn, PlayerTurn):
                self._verbs[(turn.action.split() or [""])[0].lower()] += 1
                self._actions.add(_fingerprint(turn.action))

    def features(self) -> dict[str, Any]:
        """The features of all trajectories so far, named and described in `features.DataSetFeatures`."""
        entropy, verbs = _entropy(self._verbs), len(self._verbs)
        return {
            "largest_persona_share": self._personas.largest_share,
            "persona_near_duplicate_share": self._near_personas / max(1, len(self._personas.counts)),
            "action_entropy": entropy,
            "action_evenness": entropy / math.log2(verbs) if verbs > 1 else 0.0,
            "distinct_actions": len(self._actions),
            "action_templates": len(self._templates),
            "common_actions_share": self._action_sets.largest_share,
            "distinct_goal_share": len(self._goals) / max(1, self._goal_forms.counts.total()),
            "goal_opening_entropy": _entropy(self._goal_openings),
            "common_goal_share": self._goal_forms.largest_share,
        }

    def examples(self) -> dict[str, list[FeatureExample]]:
        """Trajectories that show a feature, by its name: the largest group's first one, or what resembles what."""
        return {
            "common_actions_share": self._action_sets.most_common,
            "common_goal_share": self._goal_forms.most_common,
            "largest_persona_share": self._personas.most_common,
            "persona_near_duplicate_share": self._near_persona_examples,
        }


def goal_form(script: Script) -> str:
    """A goal with an underscore for all that the environment names or an action takes.

    Games that differ in their names alone have the same form: "put _ in _".
    """
    names = set(words(" ".join(script.environment_keys)))
    for action in script.available_actions.values():
        for values in action.parameters.values():
            names.update(words(" ".join(values)))
    form: list[str] = []
    for word in words(script.goal):
        if word not in names:
            form.append(word)
        elif form[-1:] != ["_"]:
            form.append("_")
    return " ".join(form)


def _entropy(counts: Counter[str]) -> float:
    total = counts.total()
    return -sum(n / total * math.log2(n / total) for n in counts.values()) if total else 0.0


def _fingerprint(text: str) -> bytes:
    return bytes.fromhex(short_hash(" ".join(text.lower().split())))
