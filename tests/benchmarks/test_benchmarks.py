"""What every benchmark promises: stable episodes, winnable by the actions that the agent reads, deaf to junk."""

import pytest

from agentrefine.benchmarks.catalogue import BENCHMARKS, benchmark
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.evaluation.metrics import summarise
from agentrefine.evaluation.policy import Reply
from agentrefine.evaluation.rollout import play
from agentrefine.game.conversation import prompt
from agentrefine.worlds.catalogue import PARAPHRASES
from tests.helpers.errors import refused
from tests.helpers.playing import JUNK, assert_won, installed, opened, play_gold


def few(name, number):
    """Fewer where a simulator takes seconds to start an episode."""
    return min(number, 2) if isinstance(benchmark(name), SimulatorBenchmark) else number


WORLDS = ["worlds_layouts", "worlds_families", "worlds_perturbed", "worlds_faulty"]


def test_an_unknown_benchmark_names_those_that_are_known():
    with refused("unknown_name", key="evaluation.benchmarks", name="alfworldd", known=list(BENCHMARKS)):
        benchmark("alfworldd")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_episodes_are_unique_stable_and_spread(name):
    _, episodes = installed(name, 12, 7)
    assert len(episodes) == len({episode.id for episode in episodes}) == 12
    assert episodes == benchmark(name).episodes(12, 7)
    assert {episode.benchmark for episode in episodes} == {name}
    assert len({episode.task for episode in episodes}) >= 2


@pytest.mark.parametrize("name", WORLDS)
def test_the_solution_wins_every_world_through_the_player(name):
    chosen = benchmark(name)
    episodes = chosen.episodes(36, 7)
    played = play_gold(chosen, episodes)
    assert len(played) == 36
    assert_won(played)
    summary = summarise(played)[name]
    assert summary.success_rate.value == summary.grounding.value == 1
    assert summary.recovery_rate.value is None


def test_each_world_is_played_with_every_perturbation_before_the_next():
    episodes = benchmark("worlds_perturbed").episodes(50, 7)
    worlds = [episode.id.removesuffix(f"/{episode.perturbation}") for episode in episodes]
    assert len(set(worlds)) == 10
    assert [episode.perturbation for episode in episodes] == [*PARAPHRASES] * 10
    assert all(len(set(worlds[start : start + 5])) == 1 for start in range(0, 50, 5))
    assert not any(episode.perturbation for episode in benchmark("worlds_layouts").episodes(10, 7))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_any_text_is_answered(name):
    chosen, episodes = installed(name, few(name, 10), 3)
    for episode in episodes:
        with opened(chosen, episode) as environment:
            for action in JUNK:
                result = environment.step(action)
                assert 0 < len(result.observation) < 3000
                assert (result.valid, result.success, result.done) == (False, False, False)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_any_reply_is_played_on(name):
    class Junk:
        name = "junk"
        batched = True
        number = 0

        def act(self, dialogues):
            self.number += 1
            action = JUNK[self.number % len(JUNK)]
            return [Reply(text, 1, 1) for text in (action, f"Thought: hm\nAction: {action}") * len(dialogues)][
                : len(dialogues)
            ]

        def forget(self, keys):
            pass

    chosen, episodes = installed(name, few(name, 6), 1)
    played = list(play(Junk(), chosen, episodes, max_steps=20, batch_size=4))
    assert len(played) == len(episodes)
    for episode in played:
        assert (episode.stop, episode.success, len(episode.steps)) == ("step limit", False, 20)
        malformed = [step for step in episode.steps if step.format_error]
        assert malformed
        assert {step.observation for step in malformed} == {prompt("format_error.md")}
        assert not any(step.valid for step in episode.steps)
