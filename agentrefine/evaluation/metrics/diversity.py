"""How varied the thoughts of a model are: distinct-n and self-BLEU.

Both change with the number of thoughts, so they are taken on a sample of one size for every model and benchmark.
"""

from collections import Counter
from collections.abc import Sequence
from math import exp, log
from random import Random

from pydantic import BaseModel

from agentrefine.evaluation.episodes import Episode
from agentrefine.evaluation.metrics.rates import NOTHING, Rate, ratio
from agentrefine.game.text import words

SAMPLE = 200
"""Thoughts that are looked at, of each model and benchmark; all of them where there are fewer."""

SAMPLE_SEED = 0
BLEU_ORDER = 4
UNMATCHED = 0.1
"""Counted for an order of which no n-gram is matched (Chen and Cherry 2014, smoothing 1, with NLTK's epsilon)."""

Words = tuple[str, ...]


class ThoughtDiversity(BaseModel, frozen=True):
    """How varied a sample of thoughts is.

    Example: `{"thoughts": 200, "distinct_1": 0.08, ..., "self_bleu": {"value": 0.71, ..., "n": 200}}`

    Attributes:
        thoughts: thoughts in the sample.
        distinct_1, distinct_2, distinct_3: different n-grams over all n-grams of the sample (Li et al. 2016); None
            where no thought is that long. Without an interval: a bootstrap sample holds thoughts twice and is too low.
        self_bleu: mean BLEU-4 of each thought against all the others (Zhu et al. 2018), in [0, 1]; 1: all are alike.
            Its interval draws episodes and takes the thoughts that they are compared with as given.
    """

    thoughts: int
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None
    self_bleu: Rate


def thought_diversity(episodes: Sequence[Episode]) -> ThoughtDiversity:
    """The diversity of the well-formed thoughts of one benchmark's episodes, in whatever order these come."""
    ordered = sorted(episodes, key=lambda episode: (episode.id, episode.attempt))
    spoken = [(episode.cluster, tuple(words(step.thought))) for episode in ordered for step in episode.steps]
    thoughts = [(cluster, text) for cluster, text in spoken if text]
    drawn = Random(SAMPLE_SEED).sample(thoughts, min(SAMPLE, len(thoughts)))
    clusters, texts = [cluster for cluster, _ in drawn], [text for _, text in drawn]
    return ThoughtDiversity(
        thoughts=len(texts),
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        distinct_3=distinct_n(texts, 3),
        self_bleu=NOTHING if len(texts) < 2 else ratio(self_bleu(texts), [1] * len(texts), clusters),
    )


def distinct_n(texts: Sequence[Words], n: int) -> float | None:
    """Different n-grams over all n-grams of the texts; None where there is none."""
    counts = Counter(ngram for text in texts for ngram in _ngrams(text, n))
    return len(counts) / counts.total() if counts else None


def self_bleu(texts: Sequence[Words]) -> list[float]:
    """Each text's BLEU of up to four-grams against all the others, in [0, 1]; each has one word at least.

    Sentence BLEU (Papineni et al. 2002), smoothed as `UNMATCHED` says. A text of fewer than four words is scored by the
    orders that it has, as in sacreBLEU's `effective_order`.
    """
    counts = [[_ngrams(text, n) for n in range(1, min(BLEU_ORDER, len(text)) + 1)] for text in texts]
    # The two largest counts of an n-gram in any text give its largest in all the others.
    largest: dict[Words, tuple[int, int]] = {}
    for ngram, count in (pair for orders in counts for of_order in orders for pair in of_order.items()):
        first, second = largest.get(ngram, (0, 0))
        largest[ngram] = (max(first, count), max(second, min(first, count)))
    lengths = Counter(len(text) for text in texts)
    scores = []
    for text, orders in zip(texts, counts, strict=True):
        matched = [
            sum(min(count, largest[ngram][count == largest[ngram][0]]) for ngram, count in of_order.items())
            for of_order in orders
        ]
        others = [length for length, number in lengths.items() if number > (length == len(text))]
        if not others or not matched[0]:
            scores.append(0.0)
            continue
        closest = min(others, key=lambda other: (abs(other - len(text)), other))
        precisions = [
            log((hits or UNMATCHED) / of_order.total()) for hits, of_order in zip(matched, orders, strict=True)
        ]
        scores.append(min(1.0, exp(1 - closest / len(text))) * exp(sum(precisions) / len(precisions)))
    return scores


def _ngrams(text: Words, n: int) -> Counter[Words]:
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))
