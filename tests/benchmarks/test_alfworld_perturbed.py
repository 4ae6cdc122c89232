"""ALFWorld's commands in other words: nothing is lost, nothing collides, and the game is the same."""

from itertools import groupby
from random import Random

import pytest

from agentrefine.benchmarks.alfworld.benchmark import (
    PERTURBATIONS,
    PerturbedALFWorld,
    PerturbedEnvironment,
    perturbation,
)
from agentrefine.benchmarks.alfworld.house import DATA
from agentrefine.benchmarks.base import EpisodeSpec, StepResult
from agentrefine.benchmarks.catalogue import benchmark, perturbation_of
from agentrefine.evaluation.prompting import example
from agentrefine.worlds.catalogue import PARAPHRASES
from tests.helpers.playing import installed, opened

OLDER = [DATA["older_forms"].get(template, template) for template in DATA["actions"]]
VALUES = ("apple 1", "apple 11", "sinkbasin 1", "desk 2", "go 1", "in 3")


def filled(template):
    """A template with all values in all of its places."""
    places = [word for word in ("{place}", "{object}", "{thing}", "{tool}") if word in template]
    found = [template]
    for place in places:
        found = [command.replace(place, value) for command in found for value in VALUES]
    return found


@pytest.mark.parametrize("templates", [list(DATA["actions"]), OLDER], ids=["today", "before 0.4"])
@pytest.mark.parametrize("name", PERTURBATIONS)
def test_every_command_comes_back_and_no_two_are_worded_alike(name, templates):
    other = perturbation(name, templates)
    commands = [command for template in templates for command in filled(template)]
    assert len(commands) > 150
    assert [other.parse(other.render(command)) for command in commands] == commands
    assert len({other.render(command) for command in commands}) == len(commands)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_perturbation_rewords_every_command_but_looks(name):
    same = {
        template for template in DATA["actions"] if perturbation(name, DATA["actions"]).templates[template] == template
    }
    assert same == {"inventory", "look", "check available actions"}


def test_the_perturbations_are_of_the_same_kinds_as_those_of_our_worlds():
    assert tuple(PERTURBATIONS) == PARAPHRASES


@pytest.mark.slow
def test_all_commands_of_living_games_come_back_with_all_perturbations():
    installed("alfworld_perturbed")
    chosen = benchmark("alfworld")
    seen = set()
    for game in chosen.episodes(4, 11):
        with opened(chosen, game) as environment:
            rng = Random(game.id)
            for _ in range(12):
                possible = environment.possible()
                assert "help" in possible
                for name in PERTURBATIONS:
                    other = perturbation(name, environment.actions)
                    described = [command for command in possible if command != "help"]
                    rendered = [other.render(command) for command in described]
                    assert [other.parse(command) for command in rendered] == described
                    assert len(set(rendered)) == len(described)
                seen.update(command.split()[0] for command in possible)
                # Taking and opening leads to more commands than walking about.
                rarer = [
                    command for command in possible if command.split()[0] in ("take", "open", "heat", "cool", "clean")
                ]
                environment.step(rng.choice(rarer or [command for command in possible if command.startswith("go")]))
    assert seen >= {"go", "open", "close", "take", "move", "examine", "inventory", "look"}


@pytest.mark.slow
def test_a_game_is_the_same_with_all_perturbations_and_is_won_in_them():
    chosen, episodes = installed("alfworld_perturbed", 10)
    assert [episode.perturbation for episode in episodes] == [*PERTURBATIONS, *PERTURBATIONS]
    assert len({episode.id for episode in episodes}) == 10
    games = [list(group) for _, group in groupby(episodes, lambda episode: (episode.task, episode.seed))]
    assert [len(group) for group in games] == [5, 5]
    [original] = benchmark("alfworld").episodes(1, 7)
    expected = benchmark("alfworld").gold(original)
    openings = set()
    for episode in games[0]:
        assert episode.id == f"{original.id}/{episode.perturbation}"
        environment = chosen.make(episode)
        openings.add((environment.reset(), environment.goal))
        assert "go to {place}" not in environment.actions
        assert all(not environment.step(action).valid for action in expected)
        listed = environment.step("check available actions").observation.partition(": ")[2].split(", ")
        assert listed == environment.possible() or episode.perturbation == "call"  # which has commas of its own
        assert "help" not in listed
        assert not any(command.startswith("go to") for command in listed)
        results = [environment.step(action) for action in chosen.gold(episode)]
        assert all(result.valid for result in results)
        assert results[-1].success
        environment.close()
    assert len(openings) == 1


class Kitchen:
    """A game that says what ALFWorld says."""

    goal = "cook"
    actions = DATA["actions"]

    def reset(self):
        return "A kitchen."

    def step(self, action):
        said = {
            "move apple 1 to desk 1": "You move the apple 1 to the desk 1.",
            "open fridge 1": "You open the fridge 1. The fridge 1 is open. In it, you see nothing.",
            "heat apple 1 with microwave 1": "You heat the apple 1 using the microwave 1.",
            "look": "You are facing the desk 1. Next to it, you see nothing.",
        }
        return StepResult(said.get(action, "Nothing happens."), 0.0, False, False, action in said)

    def close(self):
        """Nothing to free."""


@pytest.mark.parametrize(
    ("name", "action", "observation"),
    [
        ("plain", "place apple 1 at desk 1", "You place apple 1 at desk 1."),
        ("plain", "Place  apple 1 at desk 1.", "You place apple 1 at desk 1."),
        ("call", "open(fridge 1)", "You open(fridge 1). The fridge 1 is open. In it, you see nothing."),
        ("short", "heat apple 1 microwave 1", "You heat the apple 1 using the microwave 1."),
        ("formal", "look", "You are facing the desk 1. Next to it, you see nothing."),
        ("formal", "open fridge 1", "Nothing happens."),
    ],
)
def test_observations_repeat_a_command_as_the_agent_gave_it(name, action, observation):
    environment = PerturbedEnvironment(Kitchen(), name)
    environment.reset()
    assert environment.step(action).observation == observation


def test_an_example_is_shown_in_the_perturbation_of_the_episode():
    episode = EpisodeSpec(id="alfworld.x.1/short", benchmark="alfworld_perturbed", task="x", seed=1, wording="short")
    shown = example("alfworld").perturbed(perturbation_of(episode))
    usual = example("alfworld")
    turns = {turn.action: other for turn, other in zip(usual.turns, shown.turns, strict=True)}
    assert turns["go to drawer 1"].action == "go drawer 1"
    assert turns["take tissuebox 3 from drawer 2"].action == "take tissuebox 3 drawer 2"
    assert turns["open drawer 2"].observation.startswith("You unseal drawer 2. The drawer 2 is open.")


def test_the_published_games_keep_their_folder(tmp_path):
    episode = PerturbedALFWorld().episodes(1, 1)[0] if installed("alfworld_perturbed") else None
    reworded = PerturbedALFWorld(tmp_path)
    game = reworded._game(
        episode.model_copy(update={"id": "alfworld/a-b/trial/call", "variant": "valid_unseen", "perturbation": "call"})
    )
    assert (game.id, game.variant, game.benchmark) == ("alfworld/a-b/trial", "valid_unseen", "alfworld")
