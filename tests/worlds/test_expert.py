"""The expert, which plays by what it has read, and the mistakes that are put in."""

from random import Random

import pytest

from agentrefine.worlds.catalogue import PARAPHRASES, paraphrase
from agentrefine.worlds.engine import Game
from agentrefine.worlds.language import names_in
from agentrefine.worlds.layout import World, draw_world
from agentrefine.worlds.player import Explorer, mistakes
from tests.helpers.world_games import FAMILIES, MAX_EXPERT_STEPS, MISTAKE_KINDS, THEMES, expert_game, worlds_of


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_wins_hundreds_of_games_in_every_family(family):
    for seed in range(200):
        game, actions, _ = expert_game(draw_world(family, THEMES[seed % len(THEMES)], 100 + seed))
        assert game.completed
        assert len(actions) <= MAX_EXPERT_STEPS


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_knows_only_what_observations_have_told(family):
    """Every fact that it plans on concerns objects that have been named to it, in a sentence with that name."""
    for world in worlds_of(family, seeds=(3,)):
        game = Game(world)
        expert = Explorer(game)
        said = f"{world.goal} {game.first_observation()}"
        for _ in range(40):
            if game.completed:
                break
            named = set(names_in(said, world.objects))
            for fact in game.known:
                assert set(fact[1:]) <= named, (world.id, fact, said)
            said += " " + game.step(expert.next_action()).observation


@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_does_the_same_in_worlds_that_look_the_same(family):
    """Moving an object that has not been seen yet does not change what the expert does before it could see it."""
    world = draw_world(family, "farm", 11)
    hidden = [f for f in world.start - Game(world).known if f[0] in ("in", "stands") and f[2] in world.members["place"]]
    visible_place = next(f[1] for f in world.start if f[0] == "at")
    for fact in hidden:
        for place in world.members["place"]:
            moved = world.start - {fact} | {(fact[0], fact[1], place)}
            if place == visible_place or any(c.fact in moved for c in world.conditions):
                continue
            other = World(family, "farm", 11, world.rules, world.members, moved, world.conditions)
            compare_until_told_apart(world, other)


def compare_until_told_apart(one, other):
    games = [Game(one), Game(other)]
    experts = [Explorer(game) for game in games]
    assert games[0].first_observation() == games[1].first_observation()
    for _ in range(40):
        if games[0].completed or games[1].completed:
            return
        actions = [expert.next_action() for expert in experts]
        assert actions[0] == actions[1]
        outcomes = [game.step(action) for game, action in zip(games, actions, strict=True)]
        if outcomes[0] != outcomes[1]:
            return


def test_the_expert_recovers_from_mistakes_of_every_kind():
    for family in FAMILIES:
        rng = Random(family)
        game = Game(draw_world(family, "museum", 2))
        expert = Explorer(game)
        for _ in range(60):
            if game.completed:
                break
            found = mistakes(game, rng.choice(MISTAKE_KINDS))
            if found and rng.random() < 0.5:
                assert game.step(rng.choice(found).action).error
            else:
                assert game.step(expert.next_action()).error is None
        assert game.completed


def test_the_expert_gives_its_reasons():
    game = Game(next(w for s in range(50) if must_be_explored(w := draw_world("fetch", "farm", s))))
    expert = Explorer(game)
    kinds = set()
    while not game.completed:
        action = expert.next_action()
        reason = expert.reason
        kinds.add(reason.kind)
        assert reason.action == action
        assert reason.sub_goal.lower() in game.world.goal.lower()
        if reason.kind == "explore":
            assert reason.target in action
            assert reason.target in reason.says
            assert reason.looked_for in game.world.goal
        else:
            assert reason.facts
            assert all(names_in(fact, game.world.objects) for fact in reason.facts)
        game.step(action)
    assert kinds == {"plan", "explore"}
    with pytest.raises(RuntimeError):
        expert.next_action()


def must_be_explored(world):
    known = Game(world).known
    return not any(f[0] == "in" and f[1] == c.fact[1] for c in world.conditions for f in known)


@pytest.mark.parametrize("family", FAMILIES)
def test_listed_mistakes_raise_the_error_that_they_are_listed_for(family):
    for seed in range(3):
        game = Game(draw_world(family, THEMES[seed], seed))
        expert = Explorer(game)
        listed = dict.fromkeys(MISTAKE_KINDS, 0)
        while not game.completed:
            before = game.state
            for kind in MISTAKE_KINDS:
                for mistake in mistakes(game, kind):
                    outcome = game.step(mistake.action)
                    assert outcome.error == mistake.kind == kind
                    assert outcome.observation.startswith(f"That does not work: {mistake.error_message}.")
                    assert mistake.belief
                    listed[kind] += 1
            assert game.state == before
            assert set(game.applicable()).isdisjoint(m.action for k in MISTAKE_KINDS for m in mistakes(game, k))
            game.step(expert.next_action())
        assert all(listed.values())


@pytest.mark.parametrize("name", PARAPHRASES)
def test_the_expert_wins_under_every_paraphrase(name):
    for family in FAMILIES:
        world = draw_world(family, "office", 3)
        game, actions, said = expert_game(world, paraphrase(name))
        assert game.completed
        assert [paraphrase(name).parse(action) for action in actions] == expert_game(world)[1]
        assert said == expert_game(world)[2], "observations do not depend on how actions are written"
