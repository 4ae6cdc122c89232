"""BabyAI as text: AgentBoard's cases, winnable by the actions that the agent has, and deaf to junk."""

import pytest

from agentrefine.benchmarks.babyai.benchmark import BabyAI, BabyAIEnvironment
from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError
from tests.helpers.playing import JUNK, assert_won, play_gold


def started(level, seed=1234):
    environment = BabyAIEnvironment(level, seed)
    return environment, environment.reset()


def test_the_cases_are_agentboards_and_spread_over_the_levels():
    benchmark = BabyAI()
    cases = benchmark.episodes(1000, 7)
    assert len(cases) == len({case.id for case in cases}) == 112
    assert {case.seed for case in cases} == {1234, 1235, 1236, 1237}
    assert len({case.task for case in benchmark.episodes(28, 7)}) == 28
    assert benchmark.episodes(50, 7) == cases[:50] == benchmark.episodes(50, 7)
    assert benchmark.episodes(50, 8) != cases[:50]


def test_the_agent_reads_what_it_sees_where_and_what_it_carries():
    environment, observation = started("OpenRedDoor", 1235)
    assert environment.goal == "open the red door"
    assert any("{object}" in template for template in environment.actions)
    for thing in environment.view.things():
        assert f"a {thing.name}" in observation
    assert observation.endswith("You carry nothing.")


def test_the_bots_solutions_win_through_the_player():
    benchmark = BabyAI()
    episodes = [
        case for case in benchmark.episodes(28, 7) if case.task not in ("OpenDoorsOrderN4Debug", "UnlockToUnlock")
    ]
    played = play_gold(benchmark, episodes, max_steps=500)
    assert len(played) == 26
    assert_won(played)


@pytest.mark.slow
def test_nearly_all_cases_have_a_solution():
    benchmark = BabyAI()
    reasons = []
    for case in benchmark.episodes(112, 7):
        try:
            assert benchmark.gold(case)
        except NoSolutionError as error:
            reasons.append(f"{case.task}: {error}")
    assert len(reasons) <= 7
    assert all("minigrid" in reason for reason in reasons)


def test_a_level_on_which_the_bot_hangs_is_given_up():
    case = EpisodeSpec(id="x", benchmark="babyai", task="UnlockToUnlock", seed=1234)
    with pytest.raises(NoSolutionError, match="found no action within 300 searches"):
        BabyAI().gold(case)


def test_every_listed_action_is_possible_and_moves_the_game():
    for level in ("GoToLocalS8N7", "Open", "PickupLoc", "UnlockLocalDist", "KeyCorridorS6R3"):
        environment, _ = started(level)
        for action in environment.possible():
            fresh, _ = started(level)
            assert fresh.step(action).valid, (level, action)
            fresh.close()
        listed = environment.step("check available actions")
        assert listed.valid
        assert "turn left" in listed.observation


def test_macro_actions_reach_pick_up_and_drop_an_object():
    environment, _ = started("PickupDistDebug", 1235)
    thing = next(thing for thing in environment.view.things() if not thing.is_door)
    assert environment.step(f"go to {thing.name}").valid
    front = environment.view.front()
    assert front is not None
    assert front.object is thing.object
    again = environment.step(f"go to {front.name}")
    assert not again.valid
    assert again.observation.startswith("Nothing changes.")
    held = environment.step(f"PICKUP  {front.name}")
    kind = front.name.rsplit(" ", 1)[0]
    assert held.valid
    if not held.done:
        assert f"You carry a {kind}." in held.observation
        assert environment.step("drop").valid
        assert environment.view.front().object is thing.object


def test_a_locked_door_wants_the_key_of_its_color():
    environment, _ = started("UnlockLocalDist")
    door = next(thing for thing in environment.view.things() if thing.is_door)
    refused = environment.step(f"toggle and go through {door.name}")
    assert not refused.valid
    assert f"you do not carry a {door.object.color} key" in refused.observation
    assert not environment.step(f"go through {door.name}").valid
    assert not environment.step(f"pick up {door.name}").valid


def test_progress_counts_the_parts_of_a_mission():
    case = EpisodeSpec(id="x", benchmark="babyai", task="GoToSeqS5R2", seed=1236)
    environment = BabyAI().make(case)
    environment.reset()
    assert " and " in environment.goal or " then " in environment.goal or " after " in environment.goal
    progress = [environment.step(action).progress for action in BabyAI().gold(case)]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert any(0 < value < 1 for value in progress)


def test_going_to_what_one_faces_already_counts():
    case = EpisodeSpec(id="x", benchmark="babyai", task="GoToObjDoor", seed=1237)
    actions = BabyAI().gold(case)
    assert actions is not None
    assert len(actions) == 1
    assert actions[0].startswith("go to")


@pytest.mark.parametrize("level", ["GoToRedBall", "Pickup", "UnlockPickupDist"])
def test_junk_is_answered_and_changes_nothing(level):
    environment, first = started(level)
    for action in JUNK:
        result = environment.step(action)
        assert 0 < len(result.observation) < 2000
        assert not result.valid
        assert not result.done
    twice = [started(level)[0].step("turn left"), environment.step("turn left")]
    assert twice[0] == twice[1]
    assert first


def test_nothing_happens_after_the_end():
    case = EpisodeSpec(id="x", benchmark="babyai", task="GoToRedBall", seed=1234)
    environment = BabyAI().make(case)
    environment.reset()
    for action in BabyAI().gold(case):
        result = environment.step(action)
    assert result.done
    after = environment.step("move forward")
    assert (after.done, after.valid, after.success, after.progress) == (True, False, False, 1.0)
