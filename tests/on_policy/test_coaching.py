"""Corrected games: what counts as a mistake, who answers it, and what of it is trained, token by token."""

from collections.abc import Callable, Sequence

import pytest

from agentrefine.evaluation.policy import Dialogue, Reply
from agentrefine.game.conversation import parse_reply, reply_text
from agentrefine.game.corrected import CorrectedGame, corrected_conversation, is_trained
from agentrefine.on_policy.coaching import CoachedGame, Coaching
from agentrefine.on_policy.collect import corrected_games, training_worlds
from agentrefine.quality.corrected import is_held_out
from agentrefine.simulation.tokenizer import build_tokenizer
from agentrefine.tuning.chat_template import MASKED, render
from agentrefine.worlds.engine import Game
from agentrefine.worlds.layout import world_from_id
from agentrefine.worlds.player import Explorer, mistakes

RULES = Coaching(model_turns=12, errors_in_a_row=1, stalled_turns=3, max_turns=30)
WORLDS = ["fetch.kitchen.17", "unlock.castle.5", "shell.office.3", "heat.hotel.11"]


def coached(world: str = WORLDS[0], rules: Coaching = RULES) -> CoachedGame:
    return CoachedGame(world_from_id(world), rules, seed=7)


def expert_action(game: CoachedGame) -> str:
    """What the expert would do in a game played by the same actions."""
    played = Game(game.world)
    for turn in game.turns:
        if parsed := parse_reply(turn.text):
            played.step(parsed.action)
    return Explorer(played).next_action()


def said(action: str) -> str:
    return reply_text("I do this.", action)


def forth_and_back(game: CoachedGame) -> list[str]:
    """To another place, and back to the first one."""
    here = next(fact[1] for fact in game.world.start if fact[0] == "at")
    other = next(name for name in game.world.members["place"] if name != here)
    go = next(template for template, action in game.world.rules.actions.items() if action.travel)
    return [go.format(place=place) for place in (other, here)]


def finish(game: CoachedGame) -> CoachedGame:
    while not game.over:
        game.take_correction()
    return game


def test_the_expert_alone_wins_without_a_fault():
    for world in WORLDS:
        game = finish(coached(world))
        assert game.won
        assert {(turn.by, turn.fault, turn.as_expert) for turn in game.turns} == {("expert", None, True)}


@pytest.mark.parametrize("kind", ["parameter_error", "logic_error", "place_error"])
@pytest.mark.parametrize("world", WORLDS)
def test_every_error_of_the_engine_is_a_fault_and_the_expert_answers_it_and_cites_it(world, kind):
    game = coached(world)
    possible = mistakes(Game(game.world), kind)
    if not possible:
        pytest.skip(f"no {kind} is possible at the start of this world")
    game.take_reply(said(possible[0].action))
    assert game.turns[-1].fault == kind
    assert game.expert_is_due
    game.take_correction()
    assert (game.turns[-1].by, game.turns[-1].fault) == ("expert", None)
    cited = possible[0].error_message.replace("you ", "I ").replace("your ", "my ")
    assert cited.split()[-1].lower() in game.turns[-1].text.lower()
    assert not game.expert_is_due


def test_the_expert_waits_for_as_many_mistakes_in_a_row_as_are_drawn():
    waited = set()
    for layout in range(12):
        game = coached(f"fetch.kitchen.{layout}", RULES._replace(errors_in_a_row=3))
        while not game.expert_is_due:
            game.take_reply(said("dance"))
        waited.add(len(game.turns))
        assert {turn.fault for turn in game.turns} == {"parameter_error"}
        game.take_correction()
        assert game.turns[-1].by == "expert"
        assert not game.expert_is_due
        finish(game)
        record = game.record("model", "digest")
        assert [turn for turn in record.turns if is_trained(turn, "agreeing")] == [
            turn for turn in record.turns if turn.by == "expert"
        ]
    assert waited == {1, 2, 3}


def test_a_model_that_recovers_before_the_expert_acts_plays_on():
    game = next(
        found for layout in range(12) if not (found := _after_an_error(f"fetch.kitchen.{layout}")).expert_is_due
    )
    game.take_reply(said(expert_action(game)))
    assert (game.turns[-1].fault, game.turns[-1].as_expert, game.expert_is_due) == (None, True, False)


def _after_an_error(world: str) -> CoachedGame:
    game = coached(world, RULES._replace(errors_in_a_row=3))
    game.take_reply(said("dance"))
    return game


def test_a_reply_in_the_wrong_form_is_answered_by_the_form_and_corrected():
    game = coached()
    game.take_reply("take cup")
    assert (game.turns[-1].fault, game.expert_is_due) == ("format_error", True)
    assert "Thought:" in game.turns[-1].observation
    game.take_correction()
    assert parse_reply(game.turns[-1].text)


def test_the_third_time_of_an_action_that_brings_nothing_is_a_fault():
    game = coached(rules=RULES._replace(stalled_turns=99))
    forth, back = forth_and_back(game)
    faults = []
    for _ in range(3):
        for action in (forth, back):
            if not game.expert_is_due:
                game.take_reply(said(action))
                faults.append(game.turns[-1].fault)
    assert faults[:4] == [None] * 4
    assert "repetition" in faults[4:]


def test_turns_that_bring_nothing_new_are_faults_from_the_last_useful_one_on():
    game = coached(rules=RULES._replace(stalled_turns=3))
    forth, back = forth_and_back(game)
    for action in (forth, back, forth, back, forth):
        if not game.expert_is_due:
            game.take_reply(said(action))
    assert game.turns[-1].fault == "no_progress"
    stalled = [turn.fault for turn in game.turns]
    assert stalled.count("no_progress") >= 2
    assert stalled[0] is None
    game.take_correction()
    assert game.turns[-1].by == "expert"


def test_the_expert_finishes_after_the_models_turns():
    game = coached(rules=Coaching(model_turns=1, errors_in_a_row=1, stalled_turns=3, max_turns=30))
    game.take_reply(said("dance"))
    while not game.over:
        assert game.expert_is_due
        game.take_correction()
    assert game.won


def test_a_game_that_takes_too_long_is_given_up():
    game = coached(rules=Coaching(model_turns=9, errors_in_a_row=1, stalled_turns=9, max_turns=1))
    game.take_reply(said("dance"))
    assert game.over
    assert not game.won


def test_a_game_whose_goal_the_model_has_put_out_of_reach_is_given_up():
    game = coached(
        "shop.kitchen.798100", rules=Coaching(model_turns=20, errors_in_a_row=1, stalled_turns=99, max_turns=99)
    )
    walk = ["go to cellar", "take token from cellar", "go to hall", "go to kitchen", "go to cellar", "go to kitchen"]
    for action in (*walk, "buy onion from guest"):
        assert not game.over
        game.take_reply(said(action))
    assert game.turns[-1].fault is None
    assert game.over
    assert not game.won


class Replying:
    """A policy that answers by a function of the dialogue."""

    name = "scripted"
    batched = True

    def __init__(self, reply: Callable[[Dialogue], str]) -> None:
        self._reply = reply
        self.asked: list[int] = []
        self.forgotten: list[str] = []

    def act(self, dialogues: Sequence[Dialogue]) -> list[Reply]:
        self.asked.append(len(dialogues))
        return [Reply(self._reply(dialogue), 0, 0) for dialogue in dialogues]

    def forget(self, keys: Sequence[str]) -> None:
        self.forgotten += keys

    def close(self) -> None:
        pass


def clumsy(dialogue: Dialogue) -> str:
    """Every second time an unknown action, else a malformed reply."""
    return said("dance") if len(dialogue.messages) % 4 == 3 else "I do not know."


def played(reply: Callable[[Dialogue], str] = clumsy) -> list[CorrectedGame]:
    policy = Replying(reply)
    games = corrected_games(policy, WORLDS, RULES, seed=7, batch_size=3, model_digest="d")
    return [game for game in games if game is not None]


def test_games_are_played_in_batches_end_won_and_are_the_same_again():
    policy = Replying(clumsy)
    games = list(corrected_games(policy, WORLDS, RULES, seed=7, batch_size=3, model_digest="d"))
    assert {game.world for game in games if game} == set(WORLDS)
    assert policy.asked[0] == 3
    assert sorted(policy.forgotten) == sorted(WORLDS)
    assert [g.model_dump() for g in games if g] == [g.model_dump() for g in played()]


def test_every_error_is_masked_and_every_correction_is_trained_token_by_token():
    games = played()
    texts = [m.content for game in games for m in corrected_conversation(game, "agreeing")]
    tokenizer = build_tokenizer(["cup", "take"], texts)
    assert sum(turn.fault is not None for game in games for turn in game.turns) >= 8
    for game in games:
        rendered = render(tokenizer, corrected_conversation(game, "agreeing"), "correct_turns")
        written = [tokenizer.decode(rendered.ids[s.start : s.end]) for s in rendered.spans if s.trained]
        assert written == [f"{turn.text}<|end|>" for turn in game.turns if turn.by == "expert" or turn.as_expert]
        inside = {i for s in rendered.spans if s.trained for i in range(s.start, s.end)}
        expected = [token if i in inside else MASKED for i, token in enumerate(rendered.ids)]
        assert rendered.labels == expected
        for turn in game.turns:
            if turn.fault:
                assert f"{turn.text}<|end|>" in tokenizer.decode(rendered.ids)
                assert turn.text not in " ".join(written)


def test_of_a_models_faultless_turns_those_are_trained_that_the_parameter_names():
    world = WORLDS[0]
    game = coached(world)
    game.take_reply(said(expert_action(game)))
    played_game = Game(game.world)
    played_game.step(parse_reply(game.turns[0].text).action)
    other = next(a for a in played_game.applicable() if a != Explorer(played_game).next_action())
    game.take_reply(said(other))
    agreeing, own = game.turns[:2]
    assert (agreeing.as_expert, own.as_expert, own.fault) == (True, False, None)
    trained = {name: [is_trained(turn, name) for turn in (agreeing, own)] for name in ("none", "agreeing", "all")}
    assert trained == {"none": [False, False], "agreeing": [True, False], "all": [True, True]}


def test_training_worlds_are_none_that_models_are_evaluated_on_and_each_comes_once():
    drawn = [world for world, _ in zip(training_worlds("round1", 7), range(300), strict=False)]
    assert len(set(drawn)) == 300
    assert not any(map(is_held_out, drawn))
    assert is_held_out("fetch.kitchen.1000000")
    again = [world for world, _ in zip(training_worlds("round1", 7), range(300), strict=False)]
    other = [world for world, _ in zip(training_worlds("round2", 7), range(300), strict=False)]
    assert again == drawn
    assert not set(other) & set(drawn)
