"""The benchmarks on installed simulators: solvable through the player, the same every time, honest about validity."""

import json
import random
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from agentrefine.benchmarks import simulators
from agentrefine.benchmarks.alfworld.benchmark import ALFWorld, progress, value_of
from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, SimulatorError, UnlistedActionsError
from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.benchmarks.jericho.benchmark import Jericho, StorySimulator, jericho
from agentrefine.benchmarks.sciworld import benchmark as sciworld
from agentrefine.benchmarks.simulators import command, episodes_at_once, tidy, without_prompt
from agentrefine.benchmarks.textworld import benchmark as textworld
from tests.helpers.alfworld_data import published
from tests.helpers.errors import refused
from tests.helpers.playing import installed, opened, play_gold

NAMES = ["alfworld", "sciworld", "textworld", "jericho"]


def solved(chosen, episode):
    try:
        return chosen.gold(episode)
    except NoSolutionError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [("alfworld", 6), ("sciworld", 4), ("textworld", 8), ("jericho", 4)])
def test_the_solution_wins_through_the_player(name, number):
    chosen, episodes = installed(name, number)
    solvable = [episode for episode in episodes if solved(chosen, episode)]
    assert len(solvable) >= number - (name == "sciworld")
    played = play_gold(chosen, solvable, max_steps=400)
    for episode in played:
        assert (episode.stop, episode.success, episode.progress) == ("solved", True, 1.0), episode.id
    if name != "sciworld":  # its gold paths ask for a choice and repeat themselves at times
        assert all(step.valid for episode in played for step in episode.steps)


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_is_the_same_in_every_process_and_whatever_was_played_before(name):
    _, episodes = installed(name, 3)
    seen = []
    for order in (episodes, episodes[::-1]):
        chosen, played = benchmark(name), {}
        for episode in order:
            environment = chosen.make(episode)
            said = [environment.reset(), environment.goal, environment.actions]
            said += [environment.step(action) for action in ("look around", "look", "inventory", "go north")]
            played[episode.id] = said
            environment.close()
        seen.append(played)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", NAMES)
def test_the_actions_that_are_listed_are_possible(name):
    chosen, episodes = installed(name, 2)
    for episode in episodes:
        with opened(chosen, episode) as environment:
            assert "check available actions" in environment.actions
            listed = environment.step(" Check  available actions. ")
            assert (listed.valid, listed.progress, listed.done) == (True, 0.0, False)
            offered = listed.observation.partition(": ")[2].split(", ")
            assert len(offered) > 2
            if name != "sciworld":  # which lists objects
                action = random.Random(1).choice(offered)
                assert environment.step(action).valid


def test_nothing_happens_after_the_end():
    chosen, [episode] = installed("alfworld")
    with opened(chosen, episode) as environment:
        for action in chosen.gold(episode):
            result = environment.step(action)
        assert (result.success, result.done) == (True, True)
        after = environment.step("look")
        assert (after.success, after.done, after.valid, after.progress) == (True, True, False, 1.0)


@pytest.mark.parametrize(
    "action", ["save", "quit", "restart", "undo", "tw-extra-infos walkthrough", "restore", "look. n"]
)
def test_the_interpreters_own_commands_are_not_the_agents(action):
    chosen, [episode] = installed("textworld")
    with opened(chosen, episode) as environment:
        result = environment.step(action)
        assert (result.valid, result.done) == (False, False)
        assert result.observation == textworld.TEXTS["unknown"]


def test_a_wrong_focus_ends_a_sciworld_task_without_success():
    chosen, _ = installed("sciworld")
    with opened(chosen, EpisodeSpec(id="x", benchmark="sciworld", task="boil", seed=22)) as environment:
        result = environment.step("focus on agent")
        assert result.observation.endswith(sciworld.TEXTS["lost"])
        assert (result.done, result.success, result.progress) == (True, False, 0.0)


def test_sciworlds_electrical_tasks_can_be_loaded():
    chosen, _ = installed("sciworld")
    with opened(chosen, EpisodeSpec(id="x", benchmark="sciworld", task="power-component", seed=16)) as environment:
        assert "light bulb" in environment.goal or "electric" in environment.goal
        assert environment.step("reset task").observation == sciworld.TEXTS["unknown"]


@pytest.fixture
def generated(tmp_path):
    """A generated game, as its file in the cache holds it."""
    chosen, [episode] = installed("alfworld")
    chosen.gold(episode)
    [file] = simulators.games_folder("alfworld").rglob(f"{episode.task}.{episode.seed}.json")
    return episode, json.loads(file.read_text())


def test_the_data_sets_games_are_played_in_their_own_words(generated, tmp_path):
    episode, game = generated
    old = ('"move {o} to {r}"', '"put {o} in/on {r}"')
    published(tmp_path, f"{episode.task}-X-None-Y-1/trial_1", game, episode.task, old)
    chosen = ALFWorld(tmp_path)
    [unseen] = chosen.episodes(10, 1)
    assert (unseen.task, unseen.variant) == (episode.task, "valid_unseen")
    with opened(chosen, unseen) as environment:
        assert "put {object} in/on {place}" in environment.actions
        assert "move {object}" not in environment.actions
        for action in chosen.gold(unseen):
            if action.startswith("move "):
                assert not environment.step(action).valid
            result = environment.step(re.sub("^move (.+) to (.+)$", r"put \1 in/on \2", action))
        assert result.success


def test_code_in_a_games_grammar_is_not_run(generated, tmp_path):
    episode, game = generated
    trap = ("You arrive at {r.name}.", "You arrive at {__import__('os').system('touch trapped')}.")
    published(tmp_path, f"{episode.task}-X-None-Y-1/trial_1", game, episode.task, trap)
    chosen = ALFWorld(tmp_path)
    with opened(chosen, chosen.episodes(1, 1)[0]) as environment:
        going = next(action for action in game["walkthrough"] if action.startswith("go to"))
        with pytest.raises(SimulatorError, match="no name or text"):
            environment.step(going)
    assert not Path("trapped").exists()


def test_expressions_of_a_grammar_are_names_texts_sums_and_alternatives():
    class Apple:
        indefinite, name, id = "an", "", "apple 1"

    assert value_of("o.indefinite + ' ' + (o.name or o.id)", {"o": Apple}) == "an apple 1"
    for trap in ("o.__class__", "open('x')", "[].append(1)", "1", "p.name", "o.name if o else o.id"):
        with pytest.raises(SimulatorError, match="no name or text"):
            value_of(trap, {"o": Apple})


class Fact:
    def __init__(self, name, *arguments):
        self.name = name
        self.arguments = [type("Variable", (), {"name": argument}) for argument in arguments]


def test_alfworlds_progress_counts_the_conditions_that_hold():
    things = [Fact("objecttype", f"apple {n}", "appletype") for n in (1, 2)]
    things += [Fact("receptacletype", "shelf 1", "shelftype"), Fact("objecttype", "lamp 1", "desklamptype")]
    one = Fact("inreceptacle", "apple 1", "shelf 1")
    other = Fact("inreceptacle", "apple 2", "shelf 1")
    parameters = {"object_target": "Apple", "parent_target": "Shelf", "toggle_target": "DeskLamp", "mrecep_target": ""}

    def measured(task, *facts):
        return progress({"task_type": task, "pddl_params": parameters}, [*things, *facts])

    assert [measured("pick_and_place_simple", *facts) for facts in ((), (one,))] == [0, 1]
    assert [measured("pick_two_obj_and_place", *facts) for facts in ((), (one,), (one, other))] == [0, 0.5, 1]
    hot = Fact("ishot", "apple 2")
    heated = [measured("pick_heat_then_place_in_recep", *facts) for facts in ((), (hot,), (hot, one), (hot, other))]
    assert heated == [0, 0.5, 0.5, 1]
    held, lit = Fact("holds", "agent1", "apple 1"), Fact("istoggled", "lamp 1")
    assert [measured("look_at_obj_in_light", *facts) for facts in ((), (held,), (held, lit))] == [0, 0.5, 1]


def test_a_data_folder_without_games_is_reported_in_one_sentence(tmp_path):
    installed("alfworld")
    with refused("file_missing", file=tmp_path, name="valid_unseen"):
        ALFWorld(tmp_path).episodes(3, 1)
    (tmp_path / "valid_unseen").mkdir()
    with refused("no_games", file=tmp_path / "valid_unseen"):
        ALFWorld(tmp_path).episodes(3, 1)


def test_jericho_says_which_games_it_plays(tmp_path):
    assert "TextWorld's games" in jericho().progress_definition
    assert "TextWorld" not in jericho(tmp_path).progress_definition
    pytest.importorskip("jericho")
    (tmp_path / "unknown.z5").write_bytes(b"no story")
    with refused("no_games", file=tmp_path):
        jericho(tmp_path).episodes(3, 1)
    with refused("file_missing", file=tmp_path / "nowhere"):
        jericho(tmp_path / "nowhere").episodes(3, 1)


def test_a_story_file_is_played_by_jerichos_interpreter(tmp_path):
    chosen, [episode] = installed("textworld")
    chosen.gold(episode)
    [game] = simulators.games_folder("textworld").rglob(f"{episode.task}.{episode.seed}/game.z8")
    shutil.copy(game, tmp_path / "house.z8")
    story = Jericho(tmp_path)
    environment = story.make(EpisodeSpec(id="jericho/house.z8", benchmark="jericho", task="house", seed=0))
    assert environment.reset()
    assert environment.goal == "Reach the end of the story house with as many points as you can."
    assert environment.step("look").valid
    assert not environment.step("dance").valid
    assert not environment.step("open moon").valid
    assert not environment.step("save").valid
    # Jericho's search for valid actions does not support the story, and would download a language model.
    with pytest.raises(UnlistedActionsError, match="en_core_web_sm"):
        environment.possible()
    assert "go north" not in environment.step("check available actions").observation
    environment.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["house.z8"]


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        *((name, name, name) for name in ("alfworld", "textworld")),
        ("sciworld", "scienceworld", "scienceworld"),
        ("jericho", "textworld", "textworld"),
        ("pddl", "unified_planning", "unified-planning"),
        ("babyai", "minigrid", "minigrid"),
    ],
)
def test_a_missing_package_is_reported_with_what_to_install(name, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    requirement = "minigrid>=3.0" if name == "babyai" else "agentrefine[benchmarks]"
    with refused("not_installed", benchmark=name, name=package, requirement=requirement):
        benchmark(name).episodes(3, 1)


def test_missing_java_is_reported_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(simulators.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused("not_installed", benchmark="sciworld", name="java"):
        benchmark("sciworld").episodes(3, 1)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (" Go  to Desk 1. ", "go to desk 1"),
        ("take coin", "take coin"),
        ("", None),
        (" . ", None),
        ("look. go north", None),
        ("look; north", None),
        ("look\nnorth", None),
        ("ö", None),
        ("x" * 201, None),
        ("x" * 200, "x" * 200),
    ],
)
def test_an_action_is_one_line_of_plain_text(action, words):
    assert command(action) == words


def test_simulators_that_hold_a_process_play_fewer_episodes_at_once(monkeypatch):
    monkeypatch.setattr(simulators.os, "cpu_count", lambda: 2)
    assert episodes_at_once(benchmark("sciworld"), 50) == 4
    monkeypatch.setattr(simulators.os, "cpu_count", lambda: 64)
    assert episodes_at_once(benchmark("sciworld"), 50) == benchmark("sciworld").at_once < 50
    assert episodes_at_once(benchmark("sciworld"), 2) == 2
    assert episodes_at_once(benchmark("worlds_layouts"), 50) == 50


def test_a_simulators_text_is_tidied():
    assert tidy("\n\n  You see :\t a  coin \n\n\n   A door .\n") == "You see : a coin\nA door ."


def test_the_interpreters_prompt_and_status_line_are_not_shown():
    assert without_prompt("\nYou open the fridge.\n\n> -= Kitchen =-0/2\n") == "You open the fridge."
    assert without_prompt("5 > 4\nA > sign.") == "5 > 4\nA > sign."


class FakeStory:
    """What jericho's FrotzEnv offers, with a story of two rooms; the walkthrough is what a test puts in."""

    walkthrough: ClassVar[list[str]] = []
    is_fully_supported = True

    def __init__(self, path):
        self.points = 0

    def reset(self):
        self.points = 0
        return "A cave.\n>", {}

    def step(self, action):
        self.points += {"take lamp": 4, "north": 6}.get(action, 0)
        return f"You {action}.\n>", 0, self.points == 10 or action == "jump", {}

    def get_score(self):
        return self.points

    def get_max_score(self):
        return 10

    def victory(self):
        return self.points == 10

    def get_walkthrough(self):
        return self.walkthrough

    def close(self):
        pass


@pytest.mark.parametrize(
    ("walkthrough", "solution"),
    [
        (["Take lamp", "North", "Wait"], ["take lamp", "north"]),
        (["Take lamp"], "walkthrough of 1 steps ends at 4 of 10 points"),
        (["Jump", "Take lamp", "North"], "walkthrough of 3 steps ends at 0 of 10 points"),
    ],
)
def test_a_storys_walkthrough_is_its_solution_as_far_as_it_wins(monkeypatch, tmp_path, walkthrough, solution):
    monkeypatch.setitem(sys.modules, "jericho", SimpleNamespace(FrotzEnv=FakeStory))
    monkeypatch.setattr(FakeStory, "walkthrough", walkthrough)
    monkeypatch.setenv("AGENTREFINE_JERICHO", str(tmp_path))
    spec = EpisodeSpec(id="jericho/cave.z5", benchmark="jericho", task="cave", seed=0)
    story = StorySimulator()
    if isinstance(solution, str):
        with pytest.raises(NoSolutionError, match=solution):
            story.gold(spec)
        return
    assert story.gold(spec) == solution
    story.start(spec)
    played = [story.step(action) for action in solution]
    assert [(step.progress, step.success, step.done) for step in played] == [(0.4, False, False), (1.0, True, True)]
