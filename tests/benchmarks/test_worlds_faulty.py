"""Faulty worlds: what fails and when, that nothing changes by it, and that it is no mistake of the player's."""

import re

import pytest

from agentrefine.benchmarks.catalogue import benchmark
from agentrefine.benchmarks.worlds import faults
from agentrefine.benchmarks.worlds.faults import MAX_TRANSIENT, STUCK_ATTEMPTS, TRANSIENT_PROBABILITY, FaultyGame
from agentrefine.benchmarks.worlds.solution import solution
from agentrefine.evaluation.gold_check import check_benchmark
from agentrefine.evaluation.metrics import compare, summarise
from agentrefine.evaluation.reference import IDLE, ChancePolicy, IdlePolicy
from agentrefine.evaluation.rollout import play
from agentrefine.game.conversation import reply_text
from agentrefine.params.evaluation import EvaluationParams
from agentrefine.quality.overlap import BenchmarkTexts, OverlapIndex, benchmark_texts
from agentrefine.worlds import catalogue
from agentrefine.worlds.engine import Game
from agentrefine.worlds.facts import Move
from agentrefine.worlds.language import parameters
from agentrefine.worlds.layout import EVALUATION_SEEDS, draw_world
from agentrefine.worlds.thoughts import phrasings
from tests.helpers.playing import ScriptedPolicy, assert_won, play_gold
from tests.helpers.simulated_games import games

FAULTY, SOUND = benchmark("worlds_faulty"), benchmark("worlds_layouts")
MAX_STEPS = EvaluationParams().max_steps
TRAIN = [family.name for family in catalogue.families("train")]


def faulty_game(family="fetch", theme="farm", seed=EVALUATION_SEEDS):
    return FaultyGame(draw_world(family, theme, seed))


def sentences():
    """All sentences that only a faulty world says, with holes where names stand."""
    said = faults.fault_texts()
    groups = [*said["stuck"].values(), *said["transient"].values(), said["retry"]]
    texts = [text for group in groups for text in group]
    return {sentence for text in texts for sentence in re.split(r"(?<=[.;]) ", text)}


@pytest.fixture
def without_transient(monkeypatch):
    monkeypatch.setattr(faults, "TRANSIENT_PROBABILITY", 0.0)


def test_the_worlds_are_those_of_the_unseen_layouts_under_the_same_ids():
    sound, faulty = SOUND.episodes(60, 7), FAULTY.episodes(60, 7)
    assert [e.model_dump(exclude={"benchmark"}) for e in faulty] == [e.model_dump(exclude={"benchmark"}) for e in sound]
    for one, other in zip(sound[:13], faulty[:13], strict=True):
        environments = SOUND.make(one), FAULTY.make(other)
        first, second = ((e.reset(), e.goal, e.actions, e.possible()) for e in environments)
        assert first == second


def test_the_solution_wins_within_the_steps_that_a_model_has():
    episodes = FAULTY.episodes(50, 7)
    played = play_gold(FAULTY, episodes, max_steps=MAX_STEPS)
    assert len(played) == 50
    assert_won(played)
    assert sum(any(step.fault for step in episode.steps) for episode in played) > 45


def test_the_most_faults_leave_steps_enough_for_every_sound_solution(monkeypatch):
    monkeypatch.setattr(faults, "TRANSIENT_PROBABILITY", 1.0)
    for episode in FAULTY.episodes(65, 3):
        solution = FAULTY.gold(episode)
        assert len(solution) == len(SOUND.gold(episode)) + MAX_TRANSIENT + STUCK_ATTEMPTS * meets(episode, solution)
        assert len(solution) <= MAX_STEPS


def before_the_stuck_way(family, template="", vain=0):
    """A faulty game and its sound world, both before the expert takes the stuck way, and the action that takes it.

    In the first layout whose solution takes the way. `vain`: so often the action is tried first where it is impossible.
    """
    for seed in range(EVALUATION_SEEDS, EVALUATION_SEEDS + 20):
        faulty = faulty_game(family, seed=seed)
        sound, action = Game(faulty.world), faulty.render(faulty.stuck)
        path = solution(Game(faulty.world))
        unfit = template not in faulty.stuck.template or (vain and action in faulty.applicable())
        if unfit or action not in path:
            continue
        assert all(faulty.step(action).error for _ in range(vain))
        for before in path[: path.index(action)]:
            assert faulty.step(before) == sound.step(before)
        return faulty, sound, action
    raise AssertionError("no layout fits")


def meets(episode, actions):
    """Whether actions take the way that is stuck."""
    game = FAULTY.make(episode)._game
    return any(game.read(action) == game.stuck for action in actions)


def test_the_same_actions_meet_the_same_faults_whatever_else_is_played():
    episodes = FAULTY.episodes(20, 7)
    together = {e.id: e for e in play(ChancePolicy(7), FAULTY, episodes, max_steps=MAX_STEPS, batch_size=8)}
    for episode in reversed(episodes):
        [alone] = play(ChancePolicy(7), FAULTY, [episode], max_steps=MAX_STEPS, batch_size=1)
        assert alone == together[episode.id]
        environment = FAULTY.make(episode)
        for _ in range(2):
            environment.reset()
            again = [environment.step(step.action) for step in alone.steps]
            assert [(r.observation, r.fault) for r in again] == [(s.observation, s.fault) for s in alone.steps]


def test_faults_come_as_often_as_is_said():
    taken = failed = 0
    for episode in play(ChancePolicy(7), FAULTY, FAULTY.episodes(78, 1), max_steps=MAX_STEPS, batch_size=8):
        game = FAULTY.make(episode)._game
        for step in episode.steps:
            game.step(step.action)
            if game.read(step.action) != game.stuck:  # the stuck way fails for another reason
                taken += 1
                failed += step.fault
    assert taken > 1000
    assert failed / taken == pytest.approx(TRANSIENT_PROBABILITY, abs=0.025)


def test_a_transient_fault_changes_nothing_and_says_so(monkeypatch):
    monkeypatch.setattr(faults, "TRANSIENT_PROBABILITY", 1.0)
    for family in TRAIN:
        game = faulty_game(family)
        state = (game.state, game.known, game.ever_known, game.progress, game.completed, game.applicable())
        actions = [a for a in game.applicable() if game.read(a) != game.stuck][:MAX_TRANSIENT]
        for action in actions:
            observation, error, completed = game.step(action)
            assert (game.state, game.known, game.ever_known, game.progress, game.completed, game.applicable()) == state
            assert (error, completed) == (None, False)
            assert observation.startswith(f"{game.fault} You are in the ")
            assert game.fault.endswith(tuple(faults.fault_texts()["retry"]))
            assert "{" not in observation


def test_after_the_most_transient_faults_everything_works(monkeypatch):
    monkeypatch.setattr(faults, "TRANSIENT_PROBABILITY", 1.0)
    game = faulty_game()
    action = next(action for action in game.applicable() if game.read(action) != game.stuck)
    for _ in range(MAX_TRANSIENT):
        assert game.step(action).observation.startswith(game.fault)
        assert game.fault
    sound = Game(game.world)
    assert game.step(action) == sound.step(action)
    assert game.fault == ""


@pytest.mark.usefixtures("without_transient")
@pytest.mark.parametrize("family", TRAIN)
def test_the_stuck_way_opens_after_its_attempts_and_stays_open(family):
    faulty, sound, action = before_the_stuck_way(family)
    state = faulty.state
    texts = [text.format(**faulty.stuck.binding) for text in faults.fault_texts()["stuck"][faulty.stuck.template]]
    for _ in range(STUCK_ATTEMPTS):
        assert faulty.step(action).error is None
        assert faulty.state == state
        assert faulty.fault in texts
    assert faulty.step(action) == sound.step(action)
    assert faulty.fault == ""
    if faulty.stuck.template != "open {container}":  # a place: leave it and come back
        away = next(a for a in faulty.applicable() if faulty.read(a).template == faulty.stuck.template)
        for again in (away, action):
            assert faulty.step(again) == sound.step(again)


@pytest.mark.usefixtures("without_transient")
def test_an_impossible_attempt_does_not_loosen_the_stuck_way():
    faulty, _, action = before_the_stuck_way("store", "open", vain=5)
    for number in range(STUCK_ATTEMPTS + 1):
        assert faulty.step(action).error is None
        assert bool(faulty.fault) == (number < STUCK_ATTEMPTS)


@pytest.mark.usefixtures("without_transient")
def test_nearly_every_solution_meets_the_stuck_way():
    episodes = FAULTY.episodes(65, 7)
    longer = [len(FAULTY.gold(episode)) - len(SOUND.gold(episode)) for episode in episodes]
    assert set(longer) <= {0, STUCK_ATTEMPTS}
    assert sum(map(bool, longer)) > 0.9 * len(episodes)


def test_what_is_impossible_is_refused_as_in_a_sound_world():
    for episode in FAULTY.episodes(13, 7):
        faulty, sound = FAULTY.make(episode), SOUND.make(episode)
        faulty.reset()
        sound.reset()
        for action in ("dance", "go to nowhere", "take moon from sun"):
            for _ in range(10):
                assert faulty.step(action) == sound.step(action)
                assert not faulty.step(action).valid


class Retrying(IdlePolicy):
    """Plays the solutions of the sound worlds, and tries again what the world failed; before that an unknown action."""

    name = "retrying"

    def __init__(self, episodes, unknown):
        self.left = {e.id: [IDLE] * unknown + SOUND.gold(e) for e in episodes}
        self.last = {}

    def action(self, dialogue):
        if not dialogue.environment._game.fault:
            self.last[dialogue.key] = self.left[dialogue.key].pop(0)
        return self.last[dialogue.key]


@pytest.mark.parametrize("unknown", [0, 1])
def test_a_fault_is_no_error_no_repetition_and_no_missed_recovery(unknown):
    episodes = FAULTY.episodes(39, 7)
    policy = Retrying(episodes, unknown)
    played = list(play(policy, FAULTY, episodes, max_steps=MAX_STEPS, batch_size=8, stop_on_repeats=2))
    assert {episode.stop for episode in played} == {"solved"}
    steps = [step for episode in played for step in episode.steps]
    assert sum(not step.valid for step in steps) == unknown * 39
    found = summarise(played)["worlds_faulty"]
    assert found.grounding.value == pytest.approx(1 - unknown * 39 / len(steps))
    assert found.stuck_rate.value == 0
    assert (found.recovery_rate.value, found.recovery_rate.n) == ((1, 39) if unknown else (None, 0))
    assert found.fault_rate.value == pytest.approx(sum(step.fault for step in steps) / len(steps))
    assert found.fault_rate.value > 0.2
    assert (found.retry_rate.value, found.retry_rate.n) == (1, sum(step.fault for step in steps))


def test_a_model_that_never_tries_again_is_paired_with_itself_in_the_sound_worlds():
    specs = SOUND.episodes(39, 7)
    scripts = {e.id: [reply_text("I go on.", action) for action in SOUND.gold(e)] for e in specs}
    sound, faulty = (
        list(play(ScriptedPolicy(scripts), chosen, chosen.episodes(39, 7), max_steps=10, batch_size=8))
        for chosen in (SOUND, FAULTY)
    )
    loss = compare(faulty, [episode.model_copy(update={"benchmark": "worlds_faulty"}) for episode in sound])
    assert (loss.pairs, loss.only_a, loss.verdict) == (39, 0, "worse")
    assert loss.only_b > 20


def test_the_gold_check_is_sound_and_doing_nothing_wins_nothing():
    found = check_benchmark(FAULTY, FAULTY.episodes(26, 7), max_steps=30, seed=7)
    assert found.sound
    assert found.gold.valid == found.chance.valid == 1
    assert 0 < found.chance.success < 0.6
    assert (found.idle.success, found.idle.progress) == (0, 0)


def test_every_action_of_the_worlds_has_its_own_faults_and_names_only_what_it_holds():
    texts = faults.fault_texts()
    templates = {template for family in catalogue.families("train") for template in family.actions}
    assert texts["transient"].keys() - {"any"} == templates
    assert texts["stuck"].keys() <= templates
    for group in ("stuck", "transient"):
        for template, said in texts[group].items():
            assert len(set(said)) >= 2
            assert {hole for text in said for hole in parameters(text)} <= set(parameters(template))


def test_every_world_has_a_way_that_can_be_stuck():
    ways = set(faults.fault_texts()["stuck"])
    for family in catalogue.families("train"):
        assert ways & family.actions.keys()
        stuck = faulty_game(family.name).stuck
        assert isinstance(stuck, Move)
        assert stuck.template in ways


def test_no_training_text_holds_a_sentence_of_a_fault():
    trained = [*catalogue.all_texts(), *phrasings()]
    written = [value for _, game in games(39) for turn in game for value in turn.values() if isinstance(value, str)]
    assert len(written) > 500
    text = "\n".join([*trained, *written])
    assert len(sentences()) > 40
    for sentence in sentences():
        name = r"[\w {}]+"
        assert not re.search(name.join(map(re.escape, re.split(r"\{\w+\}", sentence))), text, re.IGNORECASE), sentence


def test_the_gate_reads_the_texts_of_faults_and_takes_them_for_ours():
    texts = benchmark_texts(FAULTY, episodes=26, solved=26, seed=7)
    assert (texts.ours, texts.missing, texts.episodes, len(texts.solutions)) == (True, "", 26, 26)
    said = " ".join(texts.passages)
    assert "trying again may help" in said
    sound = benchmark_texts(SOUND, episodes=26, solved=26, seed=7)
    own, others = (OverlapIndex([BenchmarkTexts("x", passages=t.passages)], 8) for t in (texts, sound))
    assert len(own.owners) > len(others.owners)
    assert texts.goals == sound.goals
