"""Planning problems as games: any domain reads, a planner's plan wins, refusals give reasons, bad files are named."""

import random
from pathlib import Path

import pytest

from agentrefine.benchmarks.base import NoSolutionError, UnlistedActionsError
from agentrefine.benchmarks.pddl import problem as pddl_problem
from agentrefine.benchmarks.pddl.benchmark import Pddl, PddlEnvironment
from agentrefine.errors import UserError
from tests.helpers.errors import refused
from tests.helpers.paths import SHARED
from tests.helpers.playing import JUNK, assert_won, memory_growth, play_gold

PUBLISHED = SHARED / "data" / "agentboard_pddl"

LAMPS = """
(define (domain lamps) ; a comment with (parentheses
  (:requirements :strips :typing :negative-preconditions)
  (:types lamp room)
  (:predicates (lit ?l - lamp) (broken ?l - lamp) (stands ?l - lamp ?r - room))
  (:action light :parameters (?l - lamp ?r - room)
    :precondition (and (stands ?l ?r) (not (lit ?l)) (not (broken ?l)))
    :effect (lit ?l))
  (:action douse :parameters (?l - lamp) :precondition (lit ?l) :effect (not (lit ?l)))
  (:action touch :parameters (?l - lamp) :effect (stands ?l hall)))
"""
EVENING = """
(define (problem evening) (:domain lamps)
  (:objects red blue old - lamp hall - room)
  (:init (stands red hall) (stands blue hall) (broken old))
  (:goal (and (lit red) (lit blue) (not (lit old)))))
"""
LAMPS = LAMPS.replace("(:predicates", "(:constants hall - room)\n  (:predicates")


@pytest.fixture
def folder(tmp_path):
    """A folder for problems that the benchmark reads."""
    return tmp_path


def started(folder, domain=LAMPS, problem=EVENING):
    (folder / "domain.pddl").write_text(domain, encoding="utf-8")
    (folder / "evening.pddl").write_text(problem, encoding="utf-8")
    environment = PddlEnvironment(folder / "domain.pddl", folder / "evening.pddl")
    return environment, environment.reset()


@pytest.mark.parametrize("count", [6, pytest.param(30, marks=pytest.mark.slow)])
def test_a_planner_wins_every_problem_of_ours_through_the_player(count):
    benchmark = Pddl()
    assert len(benchmark.episodes(100, 7)) == 30
    episodes = benchmark.episodes(count, 7)
    assert {episode.task for episode in episodes[:3]} == {"crates", "porter", "teahouse"}
    played = play_gold(benchmark, episodes, max_steps=60)
    assert_won(played)
    assert sum(len(episode.steps) > 30 for episode in played) <= 2


@pytest.mark.slow
@pytest.mark.skipif(not PUBLISHED.exists(), reason="no published domains")
def test_agentboards_domains_are_read_and_won_as_they_are_published():
    benchmark = Pddl(PUBLISHED)
    episodes = benchmark.episodes(100, 7)
    assert len(episodes) == 40
    assert {episode.task for episode in episodes} == {"blockworld", "gripper", "tyreworld"}
    played = play_gold(benchmark, episodes)
    assert {(episode.stop, episode.success) for episode in played} == {("solved", True)}
    tyres = [step.observation for episode in played if episode.task == "tyreworld" for step in episode.steps]
    assert "You have wrench. No longer: wrench is in boot." in tyres


def test_what_the_library_refuses_is_fixed(folder):
    """Upper case, constants behind what uses them and declared twice, a predicate declared with other types."""
    domain = """
    (DEFINE (DOMAIN Shed)
      (:predicates (open ?d - door) (have ?t - door))
      (:types door tool)
      (:action open :parameters (?d - door) :precondition (have KEY) :effect (open ?d))
      (:constants key - tool))
    """
    problem = """(define (problem p) (:domain shed) (:objects Key - tool gate key - door)
                 (:init (have key)) (:goal (open gate)))"""
    environment, first = started(folder, domain, problem)
    assert first == "Objects: tool key; door gate. Have key."
    assert environment.solution() == ["open gate"]
    assert environment.step("Open  GATE .").success


def test_refusals_say_why(folder):
    environment, _ = started(folder)
    reasons = {
        action: environment.step(action).observation
        for action in ("light", "light green hall", "light hall red", "light old hall", "douse red", "touch red")
    }
    assert reasons == {
        "light": "This action is not known. Try: check valid actions.",
        "light green hall": "There is no object named green.",
        "light hall red": "hall is not of the kind lamp.",
        "light old hall": "You cannot do that. What is missing: stands old hall. What is in the way: broken old.",
        "douse red": "You cannot do that. What is missing: lit red.",
        "touch red": "Nothing changes.",
    }
    assert environment.step("light red hall").valid


def test_progress_is_the_best_share_so_far_and_success_that_all_hold_now(folder):
    environment, _ = started(folder)
    assert environment.goal == "Make it true that lit red, lit blue, it is not true that lit old."
    steps = [
        environment.step(action) for action in ("light red hall", "douse red", "light blue hall", "light red hall")
    ]
    assert [round(step.progress, 2) for step in steps] == [0.67, 0.67, 0.67, 1.0]
    assert [step.success for step in steps] == [step.done for step in steps] == [False, False, False, True]
    assert steps[-1].observation.endswith("The goal is reached.")
    after = environment.step("douse red")
    assert (after.valid, after.done, after.success, after.progress) == (False, True, True, 1.0)
    assert "stands blue hall" in environment.reset().lower()
    assert not environment.step("check valid actions").done


def test_the_list_of_valid_actions_is_complete_and_right():
    benchmark = Pddl()
    for episode in benchmark.episodes(6, 1):
        listed = benchmark.make(episode).possible()
        message = benchmark.make(episode).step("check valid actions")
        assert message.valid
        assert message.observation == f"Valid actions: {', '.join(listed)}."
        for action in listed:
            assert benchmark.make(episode).step(action).valid
    environment = PddlEnvironment(*_porter())
    every = [
        f"take {parcel} with {hand} in {room}"
        for parcel in ("hatbox", "trunk")
        for hand in ("left-hand", "right-hand")
        for room in ("hall", "kitchen", "cellar")
    ] + [f"walk from {a} to {b}" for a in ("hall", "kitchen", "cellar") for b in ("hall", "kitchen", "cellar")]
    listed = environment.possible()
    for action in every:
        fresh = PddlEnvironment(*_porter())
        assert fresh.step(action).valid == (action in listed), action


def _porter():
    path = Pddl(Path(pddl_problem.__file__).parent / "domains").domains["porter"]
    return path.path, path.problems["p02"]


def test_a_domain_may_show_only_changes(folder):
    (folder / "domain.yaml").write_text(
        'observe: changes\nactions: {light: {say: "switch {r} {l} on", does: light it}}\nfacts: {lit: "{l} shines"}\n'
    )
    environment, first = started(folder)
    assert first.startswith("Objects: room hall; lamp red, blue, old. ")
    assert environment.actions["switch {r} {l} on"] == "light it"
    assert environment.actions["douse {l}"] == "Possible if {l} shines; no longer {l} shines."
    assert environment.step("switch hall red on").observation == "Red shines."
    assert environment.step("douse red").observation == "No longer: red shines."
    everything = environment.step("look around")
    assert everything.valid
    assert first.endswith(everything.observation)


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("actions: {jump: {say: jump}}", "unknown_name", {"key": "actions.jump"}),
        ("facts: {lit: '{l} shines on {r}'}", "bad_value", {"key": "facts.lit", "value": "{l} shines on {r}"}),
        ("actions: {light: {say: '{l}'}}", "bad_value", {"key": "actions.light.say", "parameters": ["l", "r"]}),
        ("actions: {douse: {say: 'touch {l}'}}", "duplicate_words", {}),
        ("observe: nothing", "bad_value", {"key": "observe"}),
        ("speed: 3", "unknown_key", {"key": "speed"}),
        ("facts: [", "not_yaml", {}),
    ],
)
def test_bad_words_are_named(folder, text, code, values):
    (folder / "domain.yaml").write_text(text)
    with refused(code, file=folder / "domain.yaml", **values):
        started(folder)


DURATIVE = LAMPS.replace("(:action douse", "(:durative-action douse").replace(
    ":precondition (lit ?l) :effect (not (lit ?l))",
    ":duration (= ?duration 3) :condition (at start (lit ?l)) :effect (at end (not (lit ?l)))",
)
EITHER = LAMPS.replace("?l - lamp ?r", "?l - (either lamp room) ?r")
DERIVED = LAMPS[:-2] + "(:derived (dark ?l - lamp) (not (lit ?l))))"
PREFERRED = EVENING.replace("(lit red)", "(preference p (lit red))")
CONSTRAINED = EVENING[:-2] + "(:constraints (always (lit red))))"


@pytest.mark.parametrize(
    ("domain", "problem", "file", "code", "values"),
    [
        ("", EVENING, "domain.pddl", "not_pddl", {}),
        (LAMPS + ")", EVENING, "domain.pddl", "unopened_parenthesis", {}),
        (LAMPS, EVENING[:-3], "evening.pddl", "unclosed_parentheses", {}),
        (LAMPS, LAMPS, "evening.pddl", "not_pddl", {"kind": "problem"}),
        (LAMPS, "(" * 10_000, "evening.pddl", "nested_too_deep", {"limit": 60}),
        (LAMPS, EVENING.replace("lit red", "glows red"), "evening.pddl", "problem_refused", {}),
        (LAMPS, EVENING.replace("lit red", "lit green"), "evening.pddl", "problem_refused", {}),
        (LAMPS, EVENING.replace("(lit red) (lit blue) (not (lit old))", ""), "evening.pddl", "empty_goal", {}),
        (LAMPS.replace("?l - lamp ?r", "?l - star ?r"), EVENING, "evening.pddl", "problem_refused", {}),
        (LAMPS.replace(":effect (lit ?l)", ":effect (when"), EVENING, "domain.pddl", "unclosed_parentheses", {}),
        (LAMPS.replace(":effect (lit ?l)", ":effect lit"), EVENING, "evening.pddl", "problem_refused", {}),
        (LAMPS.replace("(not (broken ?l))", "(= ?l)"), EVENING, "evening.pddl", "problem_refused", {}),
        (DURATIVE, EVENING, "domain.pddl", "not_played", {"found": "an action with a duration"}),
        (EITHER, EVENING, "domain.pddl", "not_played", {"found": "a choice of types, `(either ...)`"}),
        (DERIVED, EVENING, "domain.pddl", "not_played", {"found": "a derived predicate"}),
        (LAMPS, PREFERRED, "evening.pddl", "not_played", {"found": "a preference"}),
        (LAMPS, CONSTRAINED, "evening.pddl", "not_played", {"found": "constraints on the whole plan"}),
        (LAMPS, EVENING.replace("old", "3"), "evening.pddl", "bad_name", {"name": "3"}),
        (LAMPS.replace("(domain lamps)", "(domain)"), EVENING, "domain.pddl", "missing_name", {"kind": "domain"}),
    ],
)
def test_bad_files_are_named(folder, domain, problem, file, code, values):
    with refused(code, file=folder / file, **values):
        started(folder, domain, problem)


GOALS = {
    "(forall (?l - lamp) (lit ?l))": "for every lamp, {that lamp} shines",
    "(exists (?l - lamp) (lit ?l))": "for at least one lamp, {that lamp} shines",
    "(not (exists (?l - lamp) (broken ?l)))": "for no lamp, broken that lamp",
    "(not (forall (?l - lamp) (lit ?l)))": "it is not true that (for every lamp, that lamp shines)",
    "(or (lit red) (lit blue))": "red shines or blue shines",
    "(imply (lit red) (lit blue))": "if red shines, then blue shines",
    "(or (and (lit red) (lit blue)) (not (lit old)))": "(red shines and blue shines) or it is not true that old shines",
    "(forall (?l - lamp) (or (broken ?l) (lit ?l)))": "for every lamp, broken that lamp or that lamp shines",
    "(forall (?l - lamp ?r - room) (stands ?l ?r))": "for every lamp and every room, stands that lamp that room",
    "(forall (?l ?m - lamp) (or (= ?l ?m) (lit ?m)))": (
        "for every lamp (here lamp number 1) and every lamp (here lamp number 2), lamp number 1 is the same as lamp "
        "number 2 or lamp number 2 shines"
    ),
    "(forall (?l - lamp) (exists (?r - room) (and (stands ?l ?r) (not (= ?r hall)))))": (
        "for every lamp, for at least one room, stands that lamp that room and that room is not the same as hall"
    ),
    "(exists (?l - lamp) (forall (?m - lamp) (imply (lit ?m) (= ?l ?m))))": (
        "for at least one lamp, for every lamp (here lamp number 2), if lamp number 2 shines, then that lamp is the "
        "same as lamp number 2"
    ),
    "(>= (wax) 2)": "2 is at most wax",
    "(< (+ (wax) 1) 3)": "wax plus 1 is less than 3",
    "(= (wax) 0)": "wax is the same as 0",
}


@pytest.mark.parametrize("goal", GOALS)
def test_a_goal_is_an_english_sentence_whatever_pddl_it_is_made_of(folder, goal):
    (folder / "domain.yaml").write_text("facts: {lit: '{l} shines'}", encoding="utf-8")
    domain = LAMPS.replace("(:action light", "(:functions (wax) - number)\n  (:action light", 1)
    problem = EVENING.replace("(and (lit red) (lit blue) (not (lit old)))", goal).replace(
        "(broken old)", "(broken old) (= (wax) 1)"
    )
    environment, _ = started(folder, domain, problem)
    assert environment.goal == f"Make it true that {GOALS[goal].replace('{', '').replace('}', '')}."


def test_effects_beyond_facts_are_described_in_words(folder):
    domain = LAMPS.replace(
        "(:action douse",
        "(:functions (wax) - number)\n  (:action dark :parameters (?r - room) :effect (and (decrease (wax) 1)"
        " (when (> (wax) 2) (not (lit red)))"
        " (forall (?l - lamp) (when (stands ?l ?r) (not (lit ?l))))))\n  (:action douse",
    ).replace("hall - room)", "hall - room red - lamp)", 1)
    environment, _ = started(folder, domain, EVENING.replace("(broken old)", "(broken old) (= (wax) 1)"))
    assert environment.actions["dark {r}"] == (
        "Always possible; wax shrinks by 1; if 2 is less than wax, then no longer lit red; "
        "for every lamp, if stands that lamp {r}, then no longer lit that lamp."
    )


def test_a_byte_order_mark_is_read_and_another_encoding_is_named(folder):
    started(folder, "\ufeff" + LAMPS.replace("\n", "\r\n"), "\ufeff" + EVENING)
    (folder / "evening.pddl").write_bytes(f"; Fähre{EVENING}".encode("latin-1"))
    with refused("not_utf8", file=folder / "evening.pddl", line=1, byte="0xe4"):
        PddlEnvironment(folder / "domain.pddl", folder / "evening.pddl")
    (folder / "evening.pddl").write_bytes(EVENING.encode("utf-16"))
    with refused("not_utf8", file=folder / "evening.pddl", encoding="UTF-16"):
        PddlEnvironment(folder / "domain.pddl", folder / "evening.pddl")


def test_mangled_files_never_raise_anything_else(folder):
    rng = random.Random(3)
    refused = 0
    for _ in range(60):
        texts = [LAMPS, EVENING]
        which = rng.randrange(2)
        words = texts[which].split(" ")
        for _ in range(rng.randint(1, 3)):
            words[rng.randrange(len(words))] = rng.choice(["", "(", ")", "-", "?l", "and", "red", ":init", "lamp"])
        texts[which] = " ".join(words)
        try:
            started(folder, *texts)
        except UserError:
            refused += 1
    assert refused > 30


def test_conditions_and_effects_beyond_strips_are_played_but_not_solved(folder):
    domain = LAMPS.replace(
        "(:action douse",
        "(:action dark :parameters () :precondition (or (lit red) (exists (?l - lamp) (lit ?l)))"
        " :effect (forall (?l - lamp) (when (lit ?l) (not (lit ?l)))))\n  (:action douse",
    ).replace("hall - room)", "hall - room red - lamp)", 1)
    environment, _ = started(folder, domain)
    assert environment.step("dark").observation.startswith("You cannot do that. What is missing: ")
    environment.step("light red hall")
    assert environment.step("dark").valid
    assert not environment.step("douse red").valid
    with pytest.raises(NoSolutionError, match="beyond facts"):
        environment.solution()


def test_numbers_and_costs_are_played(folder):
    domain = LAMPS.replace(
        "(:action light",
        "(:functions (total-cost) - number (wax) - number)\n  (:action snuff :parameters ()"
        " :effect (decrease (wax) 1))\n  (:action light",
        1,
    ).replace(":effect (lit ?l))", ":effect (and (lit ?l) (increase (total-cost) 2)))")
    problem = EVENING.replace("(broken old)", "(broken old) (= (total-cost) 0) (= (wax) 3)").replace(
        "(:goal", "(:metric minimize (total-cost))\n  (:goal"
    )
    environment, _ = started(folder, domain, problem)
    assert environment.step("snuff").valid
    assert environment.step("light red hall").observation == "Lit red. Broken old. Stands red hall. Stands blue hall."


def test_a_goal_out_of_reach_has_no_solution(folder):
    environment, _ = started(folder, LAMPS, EVENING.replace("(not (lit old))", "(lit old)"))
    with pytest.raises(NoSolutionError, match="no plan within 5,000 states"):
        environment.solution()


def test_too_many_actions_are_neither_listed_nor_planned_with(folder, monkeypatch):
    monkeypatch.setattr(pddl_problem, "MAX_GROUND_ACTIONS", 5)
    environment, _ = started(folder)
    assert environment.step("check valid actions").observation == "There are too many actions to list."
    with pytest.raises(NoSolutionError, match="too many actions"):
        environment.solution()
    with pytest.raises(UnlistedActionsError, match="too many actions"):
        environment.possible()
    assert environment.step("light red hall").valid


def test_three_layouts_of_a_folder_are_known(folder):
    for name, domain in (("a/domain.pddl", LAMPS), ("b.pddl", LAMPS), ("b/p2.pddl", ""), ("b/p10.pddl", "")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(domain or EVENING)
    (folder / "a" / "x.pddl").write_text(EVENING)
    assert [episode.id for episode in Pddl(folder).episodes(9, 0)][2:] in (["pddl.b.p10"], ["pddl.b.p2"])
    assert list(Pddl(folder).domains["b"].problems) == ["p2", "p10"]
    assert list(Pddl(folder / "a").domains["a"].problems) == ["x"]
    with refused("file_missing", file=folder / "nowhere"):
        Pddl(folder / "nowhere").episodes(1, 0)
    (folder / "empty").mkdir()
    with refused("no_games", file=folder / "empty"):
        Pddl(folder / "empty").episodes(1, 0)


def test_a_problem_that_is_gone_is_named(folder):
    started(folder)
    episode = Pddl(folder).episodes(1, 0)[0]
    (folder / "evening.pddl").rename(folder / "morning.pddl")
    with refused("episode_missing", file=folder, name="evening"):
        Pddl(folder).make(episode)


def test_a_solution_does_not_depend_on_what_was_read_before():
    benchmark = Pddl()
    episodes = benchmark.episodes(6, 2)
    forth = [benchmark.gold(episode) for episode in episodes]
    back = [benchmark.gold(episode) for episode in reversed(episodes)]
    assert forth == back[::-1]


def test_a_thousand_actions_at_random_are_answered_without_growth():
    rng = random.Random(5)
    environment = PddlEnvironment(*_porter())
    actions = (rng.choice(JUNK if number % 3 else environment.possible()) for number in range(1_000))
    assert memory_growth(environment, actions, settled=500) < 100_000
