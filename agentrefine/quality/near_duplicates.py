"""Copies and near-copies among games, found as they stream by."""

import zlib
from typing import NamedTuple

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from agentrefine.files import short_hash
from agentrefine.quality.text import word_ngrams
from agentrefine.trajectory import DMTurn, Trajectory

PERMUTATIONS = 128
"""Signature length: the estimated similarity has a standard error of at most 1 / (2 * sqrt(128)) = 0.044."""

SHINGLE_WORDS = 3

RECALL_FIRST = (0.05, 0.95)
"""Weights of false candidates and missed ones when the bands are chosen: candidates are compared again afterwards."""


class Duplicates(NamedTuple):
    """Which earlier game a game repeats; None where it repeats none.

    Attributes:
        copy_of: id of the first game with the same texts.
        near_duplicate_of: id of the most similar earlier game at or above the similarity asked for.
    """

    copy_of: str | None
    near_duplicate_of: str | None


class DuplicateIndex:
    """The games seen so far, by the Jaccard similarity of their three-word shingles.

    A shingle set covers the goal, the actions and the observations. MinHash signatures are compared within the
    candidates that locality-sensitive hashing proposes (Broder 1997; Leskovec, Rajaraman and Ullman, Mining of Massive
    Datasets, chapter 3). A game that repeats another is not indexed itself, so a thousand copies cost no more than one.
    Keeps about 3 KB per distinct game.
    """

    def __init__(self, similarity: float) -> None:
        """Start empty.

        Args:
            similarity: Jaccard similarity in (0, 1] from which two games are near-duplicates.
        """
        self._similarity = similarity
        self._lsh = MinHashLSH(threshold=similarity, num_perm=PERMUTATIONS, weights=RECALL_FIRST)
        self._permutations = MinHash(num_perm=PERMUTATIONS).permutations
        self._signatures: list[NDArray[np.uint32]] = []
        self._ids: list[str] = []
        self._first_with_text: dict[str, str] = {}

    def add(self, trajectory: Trajectory) -> Duplicates:
        """Compare a game with those before it and remember it."""
        text = game_text(trajectory)
        key = short_hash(text)
        original = self._first_with_text.get(key)
        if original is not None:
            return Duplicates(original, original)
        self._first_with_text[key] = trajectory.id
        return Duplicates(None, self._near(trajectory.id, text))

    def _near(self, trajectory_id: str, text: str) -> str | None:
        sketch = MinHash(permutations=self._permutations, hashfunc=zlib.crc32, scheme="affine32")
        sketch.update_batch([shingle.encode() for shingle in word_ngrams(text, SHINGLE_WORDS)])
        candidates: list[int] = sorted(self._lsh.query(sketch))
        if candidates:
            likeness = np.mean(np.stack([self._signatures[c] for c in candidates]) == sketch.hashvalues, axis=1)
            best = int(np.argmax(likeness))
            if likeness[best] >= self._similarity:
                return self._ids[candidates[best]]
        self._lsh.insert(len(self._ids), sketch)
        self._signatures.append(sketch.hashvalues)
        self._ids.append(trajectory_id)
        return None


def game_text(trajectory: Trajectory) -> str:
    """What tells one game from another: the goal, then each action and observation."""
    spoken = (turn.observation if isinstance(turn, DMTurn) else turn.action for turn in trajectory.turns)
    return "\n".join((trajectory.script.goal, *spoken))
