"""The held-out worlds as benchmarks."""

from collections import Counter

import pytest

from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.game.conversation import instructions
from agentrefine.game.sample import script_instructions
from agentrefine.worlds import catalogue
from agentrefine.worlds.catalogue import PARAPHRASES
from agentrefine.worlds.layout import EVALUATION_SEEDS, script_of, world_from_id
from tests.helpers.world_games import unknown_words

SPLITS = {
    "worlds_layouts": "train",
    "worlds_families": "held_out",
    "worlds_perturbed": "train",
    "worlds_faulty": "train",
}
BENCHMARKS = [benchmark(name) for name in SPLITS]
by_name = pytest.mark.parametrize("benchmark_", BENCHMARKS, ids=lambda b: b.name)


@by_name
def test_episodes_are_the_same_for_the_same_seed_and_balanced_over_families(benchmark_):
    episodes = benchmark_.episodes(52, 7)
    assert episodes == benchmark_.episodes(52, 7)
    assert episodes[:20] == benchmark_.episodes(20, 7)
    assert episodes != benchmark_.episodes(52, 8)
    assert len({e.id for e in episodes}) == 52
    counts = Counter(task for task, _ in {(e.task, e.id.partition("/")[0]) for e in episodes}).values()
    assert max(counts) - min(counts) <= 1
    assert all(e.benchmark == benchmark_.name for e in episodes)


@by_name
def test_no_episode_is_a_layout_that_a_teacher_may_draw(benchmark_):
    assert all(e.seed >= EVALUATION_SEEDS for e in benchmark_.episodes(300, 1))


def test_splits_are_those_that_the_names_promise():
    for benchmark_ in BENCHMARKS:
        for episode in benchmark_.episodes(100, 3):
            world = world_from_id(episode.id.partition("/")[0])
            assert world.rules.split == SPLITS[benchmark_.name]
            assert catalogue.all_themes()[world.theme].split == SPLITS[benchmark_.name]


def test_perturbed_worlds_are_the_first_of_the_unseen_layouts_with_every_perturbation():
    worlds = [episode.id for episode in benchmark("worlds_layouts").episodes(4, 7)]
    assert [e.id for e in benchmark("worlds_perturbed").episodes(20, 7)] == [
        f"{w}/{name}" for w in worlds for name in PARAPHRASES
    ]


def test_every_perturbation_occurs_in_every_family():
    episodes = benchmark("worlds_perturbed").episodes(13 * 5, 0)
    assert {(e.task, e.perturbation) for e in episodes} == {
        (f.name, name) for f in catalogue.families("train") for name in PARAPHRASES
    }


@by_name
def test_the_expert_solves_every_episode(benchmark_):
    for episode in benchmark_.episodes(104, 5):
        environment = benchmark_.make(episode)
        assert environment.reset()
        progress = 0.0
        results = [environment.step(action) for action in benchmark_.gold(episode)]
        assert len(results) <= 20
        assert all(r.valid for r in results)
        assert [r.success for r in results] == [False] * (len(results) - 1) + [True]
        for result in results:
            assert progress <= result.progress <= 1
            progress = result.progress
            assert result.done == result.success
        environment.close()


def test_instructions_are_those_of_a_training_conversation():
    for episode in benchmark("worlds_layouts").episodes(26, 2):
        script = script_of(world_from_id(episode.id))
        environment = benchmark("worlds_layouts").make(episode)
        assert instructions(environment.actions) == script_instructions(script)
        assert environment.goal == script.goal


def test_perturbed_instructions_differ_and_speak_the_vocabulary():
    for episode in benchmark("worlds_perturbed").episodes(65, 2):
        environment = benchmark("worlds_perturbed").make(episode)
        script = script_of(world_from_id(episode.id.partition("/")[0]))
        assert instructions(environment.actions) != script_instructions(script)
        assert not unknown_words(instructions(environment.actions), catalogue.vocabulary())


def test_reset_starts_the_episode_again():
    benchmark_ = benchmark("worlds_layouts")
    episode = benchmark_.episodes(1, 0)[0]
    environment = benchmark_.make(episode)
    first = environment.reset()
    environment.step(benchmark_.gold(episode)[0])
    assert environment.reset() == first


def test_invalid_actions_are_answered_and_marked():
    environment = benchmark("worlds_families").make(benchmark("worlds_families").episodes(1, 0)[0])
    environment.reset()
    result = environment.step("x" * 10_000 + "\n")
    assert not result.valid
    assert not result.done
    assert result.observation
