"""Copies and near-copies among games, scripts and personas, found as they stream by."""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from agentrefine.files import short_hash
from agentrefine.script import Script
from agentrefine.trajectory import DMTurn, Trajectory

PERMUTATIONS = 128
"""Signature length: the estimated similarity has a standard error of at most 1 / (2 * sqrt(128)) = 0.044."""

RECALL_FIRST = (0.05, 0.95)
"""Weights of false candidates and missed ones when the bands are chosen: candidates are compared again afterwards."""


class Duplicates(NamedTuple):
    """Which earlier text a text repeats; None where it repeats none.

    Attributes:
        copy_of: id of the first one that is the same.
        near_duplicate_of: id of the most similar earlier one at or above the similarity asked for.
    """

    copy_of: str | None
    near_duplicate_of: str | None


class DuplicateIndex:
    """The texts seen so far, by the Jaccard similarity of their shingles (`text.three_word_runs`, for one).

    MinHash signatures are compared within the candidates that locality-sensitive hashing proposes (Broder 1997;
    Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3). A text that repeats another is not indexed
    itself, so a thousand copies cost no more than one. Keeps about 3 KB per distinct text.
    """

    def __init__(self, similarity: float, shingles: Callable[[str], set[str]]) -> None:
        """Start empty.

        Args:
            similarity: Jaccard similarity in (0, 1] from which two texts are near-duplicates.
            shingles: the parts of a text that are compared.
        """
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
    """What tells one game from another: the goal, then each action and observation."""
    spoken = (turn.observation if isinstance(turn, DMTurn) else turn.action for turn in trajectory.turns)
    return "\n".join((trajectory.script.goal, *spoken))


def script_text(script: Script) -> str:
    """What tells one script from another: the environment's names and values, the goal and its conditions.

    The actions are left out: scripts of one kind of game share them, word for word.
    """
    environment = {name: value for name, value in script.environment.items() if name != "world"}
    return "\n".join((" ".join(_names_and_values(environment)), script.goal, *script.completion_conditions))


def _names_and_values(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield str(name)
            yield from _names_and_values(value)
    elif isinstance(node, list):
        for value in node:
            yield from _names_and_values(value)
    else:
        yield str(node)
