"""Play by AgentBoard's labels: progress, success and valid actions are found by its rules, task by task."""

import json
import re
import shutil

import pytest

from agentrefine.benchmarks import catalogue, simulators
from agentrefine.benchmarks.agentboard.babyai import BabyAIGame
from agentrefine.benchmarks.agentboard.benchmark import CASES, PROBLEMS, STORIES
from agentrefine.benchmarks.agentboard.labels import TASKS, BabyAILabel
from agentrefine.benchmarks.babyai.benchmark import BabyAI
from agentrefine.benchmarks.catalogue import benchmark, selected
from agentrefine.errors import NotInstalledError
from agentrefine.params import load_params
from agentrefine.params.evaluation import BenchmarkData
from tests.helpers.agentboard_data import RED_BALL, labelled
from tests.helpers.alfworld_data import published
from tests.helpers.errors import refused
from tests.helpers.playing import JUNK, installed, play_gold

# Which benchmark is played.


def test_labels_decide_which_form_is_played_and_the_result_can_tell(tmp_path):
    chosen = labelled(tmp_path, "babyai", RED_BALL)
    assert chosen.progress_definition.startswith("AgentBoard's labels: share of the sub-goals")
    data = BenchmarkData(agentboard=str(tmp_path / "data"))
    assert "AgentBoard" not in benchmark("sciworld", data).progress_definition  # there are no labels of it
    assert "AgentBoard" not in benchmark("babyai").progress_definition
    assert "AgentBoard" not in benchmark("worlds_layouts", data).progress_definition


def test_a_folder_without_any_labels_is_not_agentboards(tmp_path):
    with refused("file_missing", file=tmp_path, key="evaluation.data.agentboard"):
        benchmark("textworld", BenchmarkData(agentboard=str(tmp_path)))


@pytest.mark.parametrize("name", ["alfworld", "jericho", "pddl"])
def test_games_that_are_labelled_but_not_here_are_named(tmp_path, name):
    file = tmp_path / "data" / TASKS[name] / "test.jsonl"
    with refused("not_installed", file=file, key=f"evaluation.data.{name}") as caught:
        labelled(tmp_path, name, RED_BALL)
    assert isinstance(caught.value, NotInstalledError)


def test_a_benchmark_without_its_games_is_left_out_unless_it_is_named(tmp_path, monkeypatch):
    with refused("not_installed", key="evaluation.data.pddl") as raised:
        labelled(tmp_path, "pddl", RED_BALL)
    data = BenchmarkData(agentboard=str(tmp_path / "data"))
    named = load_params().evaluation.model_copy(update={"data": data, "benchmarks": ["pddl"]})
    with refused("not_installed", key="evaluation.data.pddl"):
        selected(named)
    monkeypatch.setattr(catalogue, "BENCHMARKS", {"pddl": catalogue.BENCHMARKS["pddl"]})
    found = selected(named.model_copy(update={"benchmarks": "installed"}))
    assert str(found["pddl"]) == str(raised.value)


def test_the_numbers_of_agentboards_episodes():
    assert (len(CASES), len(PROBLEMS), len(STORIES)) == (112, 60, 20)
    assert CASES[3] == ("GoToRedBallGrey", 1237)
    assert (PROBLEMS[20], PROBLEMS[59]) == (("blockworld", 0), ("tyreworld", 9))
    assert len(BabyAI().episodes(200, 1)) == 112


# BabyAI.


def test_babyai_is_shown_in_agentboards_words_and_order(tmp_path):
    chosen = labelled(tmp_path, "babyai", RED_BALL)
    [episode] = chosen.episodes(10, 1)
    assert (episode.task, episode.seed, episode.difficulty) == ("GoToRedBallGrey", 1237, "easy")
    label = BabyAILabel.model_validate(RED_BALL)
    # Of what is equally far, what lies farther ahead comes first.
    assert BabyAIGame("PickupLoc", 2, label).reset() == (
        "In front of you in this room, you can see several objects: "
        "There is a grey key 1 right in front of you 2 steps away.  "
        "There is a red box 1 0 steps in front of you and 2 steps to your right.  "
        "There is a blue key 1 1 steps in front of you and 2 steps to your left.  "
        "There is a yellow ball 1 3 steps in front of you and 1 steps to your left.  "
        "There is a grey ball 1 2 steps in front of you and 2 steps to your right.  "
        "There is a green ball 1 2 steps in front of you and 3 steps to your right.  "
        "The room has walls around you. You are facing a wall 4 steps away. You are not carrying anything."
    )


def test_babyais_sub_goals_are_read_from_what_an_action_shows(tmp_path):
    chosen = labelled(tmp_path, "babyai", RED_BALL)
    environment = chosen.make(chosen.episodes(1, 1)[0])
    assert "There is a red ball 1 " in environment.reset()
    assert environment.goal == "go to the red ball, and stop"
    listed = environment.step("check available actions")
    actions = listed.observation.partition(": ")[2].split(", ")
    assert actions[:3] == ["turn left", "turn right", "move forward"]
    assert {"pickup red ball 1", "go to red ball 1", "check available actions"} <= set(actions)
    assert (listed.valid, listed.progress) == (True, 0)
    refused = environment.step("go through red open door 1")
    assert (refused.valid, refused.progress, refused.done) == (False, 0, False)
    assert environment.step("turn left").progress == 1 / 2
    near = environment.step("go to red ball 1")
    assert (near.progress, near.success, near.done) == (1, True, True)
    assert near.observation.endswith("The task is completed.")


def test_babyais_gold_play_is_success_by_its_labels(tmp_path):
    kinds = {"red ball": [3, 5], "purple box": [12]}
    labels = [
        RED_BALL
        | {
            "id": number,
            "subgoals": [f"There is a {kind} ** right in front of you 1 steps away."],
            "additional_info": {"subtask": f"BabyAI-{CASES[number][0]}-v0"},
            "difficulty": "hard" if number == 5 else "easy",
        }
        for kind, numbers in kinds.items()
        for number in numbers
    ]
    chosen = labelled(tmp_path, "babyai", *labels)
    episodes = chosen.episodes(10, 1)
    played = play_gold(chosen, episodes)
    assert {(episode.stop, episode.progress) for episode in played} == {("solved", 1.0)}
    assert {episode.difficulty for episode in played if episode.task == "GoToRedBall"} == {"hard"}


@pytest.mark.parametrize(("never", "over"), [(1, True), (2, False)])
def test_the_missions_end_counts_with_more_than_half_of_the_sub_goals(tmp_path, never, over):
    chosen = labelled(tmp_path, "babyai", RED_BALL | {"subgoals": RED_BALL["subgoals"] + ["a unicorn"] * never})
    environment = chosen.make(chosen.episodes(1, 1)[0])
    environment.reset()
    environment.step("move forward")
    environment.step("turn left")
    end = environment.step("turn right")
    assert "The task is completed." in end.observation  # the simulator's mission is done
    assert (end.success, end.done, end.progress) == (over, over, 2 / (2 + never))


def test_babyai_answers_junk_and_every_listed_action(tmp_path):
    door = RED_BALL | {"id": 65, "additional_info": {"subtask": "BabyAI-Pickup-v0"}}
    chosen = labelled(tmp_path, "babyai", RED_BALL, door)
    for episode in chosen.episodes(2, 1):
        environment = chosen.make(episode)
        for action in [*JUNK, "check", "toggle", "drop"]:
            environment.reset()
            assert environment.step(action).observation
        environment.reset()
        for action in environment.possible():
            environment.reset()
            assert environment.step(action).valid, action


# ALFWorld.


@pytest.fixture
def house(tmp_path):
    """A generated game in the layout of the data set, its label's key, and what solves it."""
    chosen, [episode] = installed("alfworld")
    actions = chosen.gold(episode)
    [file] = simulators.games_folder("alfworld").rglob(f"{episode.task}.{episode.seed}.json")
    name = f"{episode.task}-X-None-Y-1/trial_1"
    published(tmp_path, name, json.loads(file.read_text()), episode.task)
    chosen.workers.close()
    return tmp_path, name, actions


@pytest.mark.slow
def test_alfworlds_gold_play_reaches_every_sub_goal_in_the_old_words(house):
    folder, name, actions = house
    taken = next(action for action in actions if action.startswith("take "))
    thing = taken.split()[1]
    label = {
        "id": 0,
        "goal": "Do as the label says.",
        "subgoals": [
            rf"You pick up the {thing} \d+",
            rf"^(?=.* you see)(?=.*a {thing} \d+)",
            r"You put the .* in/on the",
        ],
        "difficulty": "hard",
        "additional_info": {"description": name},
    }
    if not any(action.startswith("move ") for action in actions):
        label["subgoals"].pop()
    chosen = labelled(folder, "alfworld", label, alfworld=str(folder))
    [episode] = chosen.episodes(5, 1)
    assert (episode.difficulty, episode.id) == ("hard", f"alfworld/{name}")
    environment = chosen.make(episode)
    first = environment.reset()
    assert environment.goal == "Do as the label says."
    assert "put {object} in/on {place}" in environment.actions
    assert "check valid actions" in environment.actions
    assert environment.step("look").observation == first
    listed = environment.step("check valid actions")
    assert (listed.valid, "go to" in listed.observation, "move " in listed.observation) == (True, True, False)
    assert not environment.step("dance").valid
    results = [
        environment.step(re.sub("^move (.+) to (.+)$", r"put \1 in \2", action))  # as an agent may word it
        for action in actions
    ]
    parts = len(label["subgoals"]) + 1
    progress = [result.progress for result in results]
    assert progress == sorted(progress)
    assert set(progress[:-1]) <= {reached / parts for reached in range(parts)}
    assert max(progress[:-1]) > 0
    assert (results[-1].progress, results[-1].success, results[-1].done) == (1.0, True, True)
    assert all(result.valid for result in results)
    environment.close()


# ScienceWorld.


@pytest.mark.slow
def test_sciworld_ends_by_its_labels_and_not_by_the_simulator(tmp_path):
    installed("sciworld")
    label = {
        "id": 0,
        "goal": "find the animal that lives longest",
        "subgoals": ["You move to the outside.", r"You focus on the crocodile( egg)?\."],
        "difficulty": "easy",
        "additional_info": {"env_name": "lifespan-longest-lived", "var": 93},
    }
    chosen = labelled(tmp_path, "sciworld", label)
    [episode] = chosen.episodes(5, 1)
    assert (episode.task, episode.seed, episode.difficulty) == ("lifespan-longest-lived", 93, "easy")
    [played] = play_gold(chosen, [episode])
    assert (played.success, played.progress, played.goal) == (True, 1.0, label["goal"])
    environment = chosen.make(episode)
    first = environment.reset()
    assert "\nIn your inventory, you see:\n\t" in first
    listed = environment.step("check valid actions")
    assert listed.observation.startswith("Choose an action from these valid actions: activate OBJ, ")
    assert listed.valid
    wrong = environment.step("focus on agent")  # fails the simulator's task for good
    assert (wrong.done, wrong.progress) == (False, 0)
    assert environment.step("inventory").valid
    away = environment.step("go to outside")
    assert (away.progress, away.valid) == (1 / 2, False)  # AgentBoard looks for the action where it has led to
    end = environment.step("focus on crocodile")
    assert (end.progress, end.success, end.done) == (1.0, True, True)
    environment.close()


# PDDL.

GRIPPER = """
(define (domain gripper-strips)
  (:predicates (room ?r) (ball ?b) (at-robby ?r) (at ?b ?r) (carry ?b))
  (:action move :parameters (?from ?to) :precondition (and (room ?from) (room ?to) (at-robby ?from))
    :effect (and (at-robby ?to) (not (at-robby ?from))))
  (:action pick :parameters (?b ?r) :precondition (and (ball ?b) (room ?r) (at ?b ?r) (at-robby ?r))
    :effect (and (carry ?b) (not (at ?b ?r))))
  (:action drop :parameters (?b ?r) :precondition (and (ball ?b) (carry ?b) (at-robby ?r))
    :effect (and (at ?b ?r) (not (carry ?b)))))
"""
PROBLEM = """
(define (problem balls) (:domain gripper-strips) (:objects hall kitchen red blue)
  (:init (room hall) (room kitchen) (ball red) (ball blue) (at-robby hall) (at red hall) (at blue $place))
  (:goal (and (at red kitchen) (at blue kitchen))))
"""


def test_pddls_progress_begins_with_the_first_change(tmp_path):
    pytest.importorskip("unified_planning")
    (tmp_path / "gripper").mkdir()
    (tmp_path / "gripper.pddl").write_text(GRIPPER)
    (tmp_path / "gripper.yaml").write_text("{}")
    for number, place in ((2, "hall"), (10, "kitchen")):
        (tmp_path / "gripper" / f"problem{number}.pddl").write_text(PROBLEM.replace("$place", place))
    info = {"additional_info": {"subtask": "gripper"}, "goal": "both balls in the kitchen"}
    labels = [RED_BALL | info | {"id": 0}, RED_BALL | info | {"id": 1, "difficulty": "hard"}]
    chosen = labelled(tmp_path, "pddl", *labels, pddl=str(tmp_path))
    episodes = {episode.variant: episode for episode in chosen.episodes(5, 1)}
    # By name, problem10 comes before problem2.
    assert {name: (e.seed, e.difficulty) for name, e in episodes.items()} == {
        "problem10": (0, "easy"),
        "problem2": (1, "hard"),
    }
    played = play_gold(chosen, list(episodes.values()))
    assert {(episode.success, episode.progress, episode.goal) for episode in played} == {(True, 1.0, info["goal"])}
    environment = chosen.make(episodes["problem10"])
    environment.reset()
    looks = [environment.step(action) for action in ("please check the actions", "look around", "pick moon hall")]
    assert [(look.progress, look.valid) for look in looks] == [(0, True), (0, True), (0, False)]
    assert environment.step("pick red hall").progress == 1 / 2  # the other ball lies there already


# Jericho.


@pytest.mark.slow
def test_a_story_is_measured_by_passages_one_a_text(tmp_path):
    pytest.importorskip("jericho")
    chosen, [game] = installed("textworld")
    actions = chosen.gold(game)
    [file] = simulators.games_folder("textworld").rglob(f"{game.task}.{game.seed}/game.z8")
    shutil.copy(file, tmp_path / f"{STORIES[0]}.z8")

    def begun(subgoals, **info):
        label = RED_BALL | {"id": 0, "subgoals": subgoals, "additional_info": info}
        story = labelled(tmp_path, "jericho", label, jericho=str(tmp_path))
        [episode] = story.episodes(5, 1)
        environment = story.make(episode)
        return environment, environment.reset()

    environment, opening = begun(["x"], init_obs="You wake up.")
    assert opening == "You wake up."
    said = [environment.step(action).observation for action in actions[:2]]
    environment.close()
    # Punctuation does not matter, and the second passage comes with the first text but counts with a later one.
    environment, opening = begun([said[0].replace(".", "!"), said[0][:10]])
    assert "\n" not in opening + said[0] + said[1]
    assert "check valid actions" in environment.actions
    listed = environment.step("check valid actions")
    assert (listed.valid, listed.progress, listed.done) == (True, 0, False)
    assert not environment.step("save").valid
    first = environment.step(f"{actions[0]}, then sing. And dance")
    assert (first.progress, first.valid, first.done) == (1 / 2, True, False)
    environment.step(actions[1])
    environment.close()
