"""Diversity of thoughts, against published values and counts by hand."""

import random
from collections import Counter
from math import prod

import numpy as np
import pytest

from agentrefine.evaluation.metrics.diversity import (
    BLEU_ORDER,
    SAMPLE,
    UNMATCHED,
    distinct_n,
    self_bleu,
    thought_diversity,
)
from tests.helpers.hand_made_episodes import episode, step

# The example of Papineni et al. 2002; its scores are those of NLTK's documentation (`sentence_bleu`, the second one
# with `SmoothingFunction().method1`).
REFERENCES = [
    tuple(text.split())
    for text in (
        "It is a guide to action that ensures that the military will forever heed Party commands",
        "It is the guiding principle which guarantees the military forces always being under the command of the Party",
        "It is the practical guide for the army always to heed the directions of the party",
    )
]
GOOD = "It is a guide to action which ensures that the military always obeys the commands of the party"
POOR = "It is to insure the troops forever hearing the activity guidebook that party direct"


def ngrams(text, n):
    return Counter(text[start : start + n] for start in range(len(text) - n + 1))


def plain_bleu(text, others):
    """BLEU of one text as its definition says."""
    precisions = []
    for n in range(1, min(BLEU_ORDER, len(text)) + 1):
        largest = Counter()
        for other in others:
            largest |= ngrams(other, n)
        hits = (ngrams(text, n) & largest).total()
        if n == 1 and not hits:
            return 0
        precisions.append((hits or UNMATCHED) / (len(text) - n + 1))
    closest = min((abs(len(other) - len(text)), len(other)) for other in others)[1]
    return min(1, np.exp(1 - closest / len(text))) * prod(precisions) ** (1 / len(precisions))


def bleu(text, others):
    return self_bleu([text, *others])[0]


def test_bleu_has_its_published_values():
    assert bleu(tuple(GOOD.split()), REFERENCES) == pytest.approx(0.5045666840058485, abs=1e-12)
    # 8 of 14 words, 1 of 13 pairs, no triple of 12, no quadruple of 11; two words shorter than the closest reference.
    assert bleu(tuple(POOR.split()), REFERENCES) == pytest.approx(0.0370, abs=5e-5)
    assert bleu(("the",) * 7, [("the", "cat", "is", "on", "the", "mat")]) == pytest.approx(
        (2 / 7 * 0.1 / 6 * 0.1 / 5 * 0.1 / 4) ** 0.25
    )


def test_bleu_of_a_short_text_uses_the_orders_that_it_has():
    assert bleu(("go", "on"), [("go", "on")]) == 1
    assert bleu(("go", "on"), [("go", "back")]) == pytest.approx((1 / 2 * 0.1 / 1) ** 0.5)
    assert bleu(("go",), [("stop",)]) == 0


def test_self_bleu_is_each_text_against_all_the_others():
    draw = random.Random(1)
    texts = [tuple(draw.choice("abcd") for _ in range(draw.randint(1, 9))) for _ in range(40)]
    one_by_one = [plain_bleu(text, [*texts[:place], *texts[place + 1 :]]) for place, text in enumerate(texts)]
    assert self_bleu(texts) == pytest.approx(one_by_one, abs=1e-12)


def test_distinct_n_by_hand():
    texts = [("go", "to", "the", "hall"), ("go", "to", "the", "attic")]
    assert distinct_n(texts, 1) == 5 / 8
    assert distinct_n(texts, 2) == 4 / 6
    assert distinct_n(texts, 3) == 3 / 4
    assert distinct_n(texts, 5) is None


def spoken(*thoughts):
    return [episode(number, step(thought=thought)) for number, thought in enumerate(thoughts)]


def test_thoughts_that_are_all_alike_and_all_different():
    alike = thought_diversity(spoken(*["I look around the hall."] * 10))
    assert (alike.thoughts, alike.distinct_1, alike.self_bleu.value) == (10, 5 / 50, 1)
    different = thought_diversity(spoken("one two three", "four five six", "seven eight nine"))
    assert (different.distinct_1, different.distinct_3, different.self_bleu.value) == (1, 1, 0)


def test_a_model_without_thoughts_has_no_diversity():
    mute = thought_diversity([episode(1, step(format_error=True), step(format_error=True))])
    assert (mute.thoughts, mute.distinct_1, mute.self_bleu.value) == (0, None, None)
    one = thought_diversity(spoken("I look."))
    assert (one.thoughts, one.distinct_1, one.self_bleu.value) == (1, 1, None)


def test_the_sample_has_one_size_and_does_not_depend_on_the_order_of_play():
    draw = random.Random(2)
    episodes = spoken(*(" ".join(draw.choice(["go", "to", "see", "it"]) for _ in range(6)) for _ in range(300)))
    found = thought_diversity(episodes)
    assert found.thoughts == SAMPLE
    assert found.self_bleu.n == SAMPLE
    assert found.self_bleu.low < found.self_bleu.value < found.self_bleu.high
    assert thought_diversity(episodes[::-1]) == found
