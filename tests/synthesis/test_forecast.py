"""The forecast: its intervals hold about as often as they say, and its figures add up."""

import random

import pytest

from agentrefine.game.personas import Persona
from agentrefine.game.trajectory import DroppedSample
from agentrefine.game.verdict import Attempt
from agentrefine.llm.completion import TRUNCATED, Usage, only_in
from agentrefine.synthesis.accounts import PersonaAccount
from agentrefine.synthesis.forecast import forecast, nothing_kept, pilot_personas
from agentrefine.synthesis.repair import Repaired


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
        found = forecast([account(number, cost) for number, cost in enumerate(costs[:pilot])], 300, sum(costs[:pilot]))
        assert found.cost is not None
        held += found.cost.low <= sum(costs) <= found.cost.high
    assert 0.92 <= held / 600 <= 0.98


def test_figures_add_up():
    pilot = [account(0, 1.0, 10, 3), account(1, 3.0, 14, 5)]
    found = forecast(pilot, 20, sum(account.cost_usd for account in pilot))
    assert (found.pilot, found.personas) == (2, 20)
    assert found.cost is not None
    assert found.cost.value == pytest.approx(40.0)
    assert (found.calls.value, found.prompt_tokens.value, found.completion_tokens.value) == (240, 24_000, 2_400)
    assert found.kept.value == pytest.approx(80)
    for expected in (found.calls, found.kept, found.cost):
        assert expected.low <= expected.value <= expected.high
    assert found.cost.low >= 4.0, "what is known is spent"


def test_when_all_is_known_nothing_is_uncertain():
    found = forecast([account(0, 1.0), account(1, 3.0)], 2, 4.0)
    assert found.cost == (4.0, 4.0, 4.0)


def test_an_unknown_price_makes_the_cost_unknown_and_not_nothing():
    found = forecast([account(0, 1.0), account(1, None)], 20, None)
    assert found.cost is None
    assert "cost unknown, as a price is not known" in found.sentence()


def test_the_sentence_states_all_figures():
    said = forecast([account(0, 1.0), account(1, 3.0)], 2000, 4.0).sentence()
    assert said.startswith("forecast for 2,000 personas from a pilot of 2 (95% intervals): cost $4,000.00 [$4.00, $")
    for figure in ("20,000", "2,000,000", "200,000", "6,000 [6"):
        assert figure in said


def test_the_pilot_is_drawn_alike_in_every_order_of_the_file():
    personas = [Persona(id=str(number), text=f"Persona {number}.") for number in range(100)]
    drawn = {persona.id for persona in pilot_personas(personas, 8)}
    assert len(drawn) == 8
    assert {persona.id for persona in pilot_personas(reversed(personas), 8)} == drawn
    assert drawn != {str(number) for number in range(8)}


def test_a_pilot_that_was_paid_in_full_counts_in_full_though_the_rest_goes_by_batch():
    half_price = [account(0, 1.0), account(1, 1.0)]
    found = forecast(half_price, 10, paid=4.0)
    assert found.cost is not None
    assert found.cost.value == pytest.approx(4.0 + 8 * 1.0)


def ended(rule: str, finish_reason: str = "stop") -> Repaired:
    attempt = Attempt(
        id="1", persona_id="p", persona="x", sample=0, call=1, kind="script", script_call=None, text="",
        usage=Usage(prompt_tokens=1, completion_tokens=1), finish_reason=finish_reason, teacher="m",
    )  # fmt: skip
    dropped = DroppedSample(persona_id="p", persona="x", sample=0, rule=rule, message=f"About {rule}.", calls=1)
    return Repaired(dropped, [attempt], [])


def test_a_pilot_that_kept_nothing_says_why_most_often_first():
    said = nothing_kept([ended("not_json"), ended("empty_answer"), ended("empty_answer", TRUNCATED)], 2)
    assert said is not None
    assert said.index("empty_answer in 2 of 3 (About empty_answer.)") < said.index("not_json in 1 of 3")
    assert "1 of 3 answers were cut at max_tokens" in said
    assert "teacher.pilot_personas to 0" in said


def test_a_pilot_whose_answers_stand_in_another_field_names_it():
    said = nothing_kept([ended("empty_answer", only_in("reasoning_content"))] * 4, 2)
    assert said is not None
    assert "4 of 4 answers have no content but stand whole in the field reasoning_content" in said


def test_a_pilot_that_kept_one_game_says_nothing():
    kept = ended("x")._replace(outcome=object())
    assert nothing_kept([kept, ended("not_json")], 2) is None
    assert nothing_kept([], 2) is None
