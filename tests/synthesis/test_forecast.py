"""The forecast: its intervals hold about as often as they say, and its figures add up."""

import random

import pytest

from agentrefine.game.personas import Persona
from agentrefine.game.trajectory import DroppedSample
from agentrefine.game.verdict import Attempt
from agentrefine.llm.completion import TRUNCATED, Usage, only_in
from agentrefine.synthesis.accounts import PersonaAccount
from agentrefine.synthesis.forecast import MAX_SHOWN, Pace, forecast, pilot_personas, shortfall
from agentrefine.synthesis.repair import Repaired

PACE = Pace(12.0, in_flight=16)


def account(number: int, cost: float | None = 1.0, calls: int = 10, kept: int = 3) -> PersonaAccount:
    return PersonaAccount(
        persona_id=str(number),
        samples=6,
        kept=kept,
        calls=calls,
        prompt_tokens=100 * calls,
        cached_tokens=0,
        completion_tokens=10 * calls,
        cost_usd=cost,
    )


@pytest.mark.parametrize("pilot", [4, 8, 20])
def test_the_interval_holds_the_true_total_about_as_often_as_it_says(pilot):
    """Costs of personas as the simulated teacher has them: six samples of two to four calls, of different lengths."""
    draw = random.Random(pilot)

    def cost() -> float:
        return sum(draw.choices([2, 3, 4], [60, 22, 18])[0] * draw.uniform(0.8, 1.4) for _ in range(6))

    held = 0
    for _ in range(600):
        costs = [cost() for _ in range(300)]
        found = forecast(
            [account(number, cost) for number, cost in enumerate(costs[:pilot])], 300, sum(costs[:pilot]), PACE
        )
        assert found.cost is not None
        held += found.cost.low <= sum(costs) <= found.cost.high
    assert 0.92 <= held / 600 <= 0.98


def test_figures_add_up():
    pilot = [account(0, 1.0, 10, 3), account(1, 3.0, 14, 5)]
    found = forecast(pilot, 20, sum(account.cost_usd for account in pilot), PACE)
    assert (found.pilot, found.personas) == (2, 20)
    assert found.cost is not None
    assert found.cost.value == pytest.approx(40.0)
    assert (found.calls.value, found.prompt_tokens.value, found.completion_tokens.value) == (240, 24_000, 2_400)
    assert found.kept.value == pytest.approx(80)
    for expected in (found.calls, found.kept, found.cost):
        assert expected.low <= expected.value <= expected.high
    assert found.cost.low >= 4.0, "what is known is spent"


def test_when_all_is_known_nothing_is_uncertain():
    found = forecast([account(0, 1.0), account(1, 3.0)], 2, 4.0, PACE)
    assert found.cost == (4.0, 4.0, 4.0)


def test_an_unknown_price_makes_the_cost_unknown_and_not_nothing():
    found = forecast([account(0, 1.0), account(1, None)], 20, None, PACE)
    assert found.cost is None
    assert "cost unknown, as a price is not known" in found.sentence()


def test_the_sentence_states_all_figures():
    said = forecast([account(0, 1.0), account(1, 3.0)], 2000, 4.0, PACE).sentence()
    assert said.startswith("forecast for 2,000 personas from a pilot of 2 (95% intervals): cost $4,000.00 [$4.00, $")
    for figure in ("20,000", "2,000,000", "200,000", "; 6,000 trajectories kept"):
        assert figure in said


def test_the_pilot_is_drawn_alike_in_every_order_of_the_file():
    personas = [Persona(id=str(number), text=f"Persona {number}.") for number in range(100)]
    drawn = {persona.id for persona in pilot_personas(personas, 8)}
    assert len(drawn) == 8
    assert {persona.id for persona in pilot_personas(reversed(personas), 8)} == drawn
    assert drawn != {str(number) for number in range(8)}


def test_a_pilot_that_was_paid_in_full_counts_in_full_though_the_rest_goes_by_batch():
    half_price = [account(0, 1.0), account(1, 1.0)]
    found = forecast(half_price, 10, paid=4.0, pace=PACE)
    assert found.cost is not None
    assert found.cost.value == pytest.approx(4.0 + 8 * 1.0)


def ended(rule: str, finish_reason: str = "stop", text: str = "") -> Repaired:
    attempt = Attempt(
        id="1", persona_id="p", persona="x", sample=0, call=1, kind="script", script_call=None, text=text,
        usage=Usage(prompt_tokens=1, completion_tokens=1), finish_reason=finish_reason, teacher="m",
    )  # fmt: skip
    dropped = DroppedSample(persona_id="p", persona="x", sample=0, rule=rule, message=f"About {rule}.", calls=1)
    return Repaired(dropped, [attempt], [])


def test_a_pilot_of_one_persona_gives_no_intervals():
    found = forecast([account(0, 1.5)], 20, 1.5, PACE)
    assert found.cost == (30.0, None, None)
    assert found.kept == (60.0, None, None)
    said = found.sentence()
    assert "for 20 personas from a pilot of 1 (no intervals: " in said
    assert "cost $30.00; " in said
    assert "[" not in said


@pytest.mark.parametrize("count", [1, 2, 3])
def test_where_the_pilot_is_all_there_is_nothing_is_estimated(count):
    found = forecast([account(number, 1.0) for number in range(count)], count, float(count), PACE)
    assert found.cost == (count, count, count)
    said = found.sentence()
    assert said.startswith("for 1 persona, with whom" if count == 1 else f"for {count} personas, with whom")
    assert f"cost ${count}.00; " in said
    assert "[" not in said


@pytest.mark.parametrize("personas", [9, 100, 5_000, 1_000_000])
def test_intervals_hold_for_any_number_of_personas(personas):
    pilot = [account(number, 1.0 + number / 10, 10 + number, number % 7) for number in range(8)]
    found = forecast(pilot, personas, sum(account.cost_usd for account in pilot), PACE)
    for expected in (found.cost, found.calls, found.kept):
        assert 0 <= expected.low <= expected.value <= expected.high
    assert found.kept.high <= 6 * personas


@pytest.mark.parametrize(
    ("pace", "said"),
    [
        (Pace(12.0, in_flight=16), "about 2.1 hours (12 s a call, 16 at once)"),
        (Pace(0.16, in_flight=16), "about 100 seconds (0.2 s a call, 16 at once)"),
        (Pace(0.016, in_flight=16), "about 10 seconds (0.0 s a call, 16 at once)"),
        (Pace(12.0, 16, requests_per_minute=50), "about 3.3 hours (50 calls a minute)"),
        (Pace(12.0, 16, requests_per_minute=50, tokens_per_minute=10_000), "about 55.0 hours (10,000 tokens a minute)"),
        (Pace(12.0, rounds_of_batches=4), "up to 24 hours for each of at most 4 rounds of batches"),
        (Pace(None), "time unknown, as that of the pilot's answers is"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_time_follows_from_calls_their_seconds_and_the_limits(pace, said):
    assert pace.sentence(calls=10_000, tokens=33_000_000) == said


def test_a_pilot_that_kept_nothing_says_why_most_often_first_and_shows_an_answer():
    last = ended("empty_answer", TRUNCATED, text='{"thought": \x1b[2J\n"...')
    found = shortfall([ended("not_json"), last, ended("empty_answer")], 2, 0.2)
    assert found is not None
    assert (found.kept, found.samples) == (0, 3)
    said = found.sentences
    assert said.startswith("teacher: the pilot of 2 personas kept none of its 3 samples. Most often: ")
    assert said.index("empty_answer in 2 of 3 (About empty_answer.)") < said.index("not_json in 1 of 3")
    assert "1 of 3 answers were cut at max_tokens" in said
    assert found.answer.startswith("An answer that broke empty_answer (persona p, sample 0, call 1, script):\n\n")
    assert found.answer.endswith('{"thought": [2J\n"...'), "without what a terminal would obey"


def test_a_long_answer_is_shown_in_part_and_an_empty_one_as_such():
    long = shortfall([ended("not_json", text="x" * (MAX_SHOWN + 5))], 1, 0.2)
    assert long.answer.endswith("x\n[... 5 more characters]")
    assert shortfall([ended("not_json")], 1, 0.2).answer.endswith("\n\n(it is empty)")


def test_a_pilot_whose_answers_stand_in_another_field_names_it():
    found = shortfall([ended("empty_answer", only_in("reasoning_content"))] * 4, 2, 0.2)
    assert found is not None
    assert "4 of 4 answers have no content but stand whole in the field reasoning_content" in found.sentences


@pytest.mark.parametrize(
    ("kept", "of", "share", "falls_short"),
    [
        (1, 10, 0.2, True),
        (2, 10, 0.2, False),
        (1, 10, 0.0, False),
        (0, 10, 0.0, True),
        (9, 10, 1.0, True),
        (10, 10, 1.0, False),
    ],
)
def test_how_much_must_be_kept_is_a_share_of_the_samples(kept, of, share, falls_short):
    pilot = [ended("x")._replace(outcome=object())] * kept + [ended("not_json")] * (of - kept)
    found = shortfall(pilot, 2, share)
    assert (found is not None) is falls_short
    if found is not None and kept:
        assert f"kept {kept} ({kept / of:.0%}) of its {of} samples" in found.sentences


def test_no_sample_at_all_is_no_shortfall():
    assert shortfall([], 2, 0.2) is None
