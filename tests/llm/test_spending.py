"""Money: the limit that no call passes, prices that are not known, and what a stage says it has cost."""

import asyncio
from pathlib import Path

import pytest

from agentrefine.game.counts import UNKNOWN
from agentrefine.game.verdict import Attempt
from agentrefine.llm.completion import Usage
from agentrefine.llm.journal import Journal
from agentrefine.llm.spending import SPENDING_NUMBERS, BudgetSpentError, Price, Prices, Spending, load_prices
from agentrefine.llm.throttle import STOPPED, SharedNumbers, StoppedError
from agentrefine.params.teacher import TeacherParams
from agentrefine.synthesis.accounts import Account
from tests.helpers.asking import ask, ask_with, in_processes, price_list, questions, settings
from tests.helpers.chat_server import ChatServer, answer, error
from tests.helpers.errors import refused

DOLLAR_A_TOKEN = {"input": 0, "output": 1_000_000}


def limited(server: ChatServer, folder: Path, max_cost: float, **changes: object) -> TeacherParams:
    """An endpoint whose answers may take up to 10 dollars each."""
    prices = price_list(folder, m=DOLLAR_A_TOKEN)
    return settings(server, max_tokens=10, max_cost=max_cost, prices=prices, **changes)


def ask_until_spent(number: int, params: TeacherParams, folder: Path) -> None:
    with Journal(folder / "answers.sqlite") as journal, pytest.raises(BudgetSpentError):
        ask_with(params, journal, folder / "numbers", questions(60, f"process {number}"), keep=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_limit_is_never_passed_and_nearly_reached(tmp_path, processes):
    """Answers cost 3 of the 10 dollars that are reserved; the server counts them."""
    with ChatServer(lambda number, request: answer(tokens=3)) as server:
        params = limited(server, tmp_path, 100.0, concurrency=16, processes=processes)
        in_processes(processes, ask_until_spent, params, tmp_path)
        cost = 3 * len(server.requests)
    assert 90 < cost <= 100
    with Journal(tmp_path / "answers.sqlite") as journal:
        kept = journal._reader.execute("SELECT count(*) FROM answers").fetchone()[0]
    assert kept == len(server.requests), "what was out when the money ran out came back and was kept"


def test_with_a_higher_limit_the_run_resumes_and_pays_nothing_twice(journal, tmp_path):
    with ChatServer(lambda number, request: answer(tokens=3)) as server:
        with refused("budget_spent", key="teacher.max_cost", limit=40.0):
            ask_with(limited(server, tmp_path, 40.0), journal, tmp_path / "numbers", questions(30))
        first = len(server.requests)
        with pytest.raises(BudgetSpentError):
            ask_with(limited(server, tmp_path, 40.0), journal, tmp_path / "numbers", questions(30))
        assert len(server.requests) == first, "what the journal holds counts too"
        done = ask_with(limited(server, tmp_path, 100.0), journal, tmp_path / "numbers", questions(30))
    assert (done.paid, done.replayed) == (30 - first, first)
    assert sorted(request["seed"] for request in server.requests) == list(range(30))
    assert done.numbers["spent"] == pytest.approx(90.0)
    assert done.numbers["reserved"] == 0.0


def test_calls_wait_for_money_that_calls_in_flight_may_set_free(journal, tmp_path):
    """20 dollars let two calls go out at a time; as they take one each, all ten come through."""
    with ChatServer(lambda number, request: answer(tokens=1) | {"delay": 0.2}) as server:
        params = limited(server, tmp_path, 20.0, concurrency=10)
        done = ask_with(params, journal, tmp_path / "numbers", questions(10))
    assert done.texts == ["hello"] * 10
    assert server.most_at_once == 2


def test_calls_that_fail_give_back_what_was_reserved(journal, tmp_path):
    def reply(number, request):
        fails = request["seed"] % 2 and request["messages"][0]["content"] == "hi"
        return error(500) if fails else answer(tokens=1)

    with ChatServer(reply) as server:
        params = limited(server, tmp_path, 21.0, max_retries=1)
        done = ask_with(params, journal, tmp_path / "numbers", questions(12))
    assert done.numbers["reserved"] == 0.0
    assert done.numbers["spent"] == pytest.approx(6.0)


def test_a_limit_needs_a_known_price(journal):
    with ChatServer(lambda number, request: answer()) as server:
        with refused("price_unknown", key="teacher.max_cost", name="m"):
            ask(server, journal, max_cost=1.0)
        assert server.requests == []


def test_who_waits_for_money_of_a_process_that_died_ends_with_the_run(tmp_path):
    with SharedNumbers(tmp_path / "numbers", [*SPENDING_NUMBERS, STOPPED]) as numbers:
        numbers["reserved"] = 8.0

        async def work() -> None:
            waiting = asyncio.create_task(Spending(numbers, 10.0, patience=60).reserve(5.0))
            await asyncio.sleep(0.3)
            assert not waiting.done()
            numbers[STOPPED] = 1.0
            await asyncio.wait_for(waiting, 3)

        with pytest.raises(StoppedError):
            asyncio.run(work())


def test_prices_count_cached_tokens_and_batches():
    price = Price(input=2.0, cached_input=0.5, output=10.0, batch=0.5)
    usage = Usage(prompt_tokens=1_000_000, completion_tokens=100_000, cached_tokens=400_000)
    assert price.cost(usage) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.1 * 10)
    assert price.cost(usage.model_copy(update={"batch": True})) == pytest.approx(2.4 / 2)
    without = Price(input=2.0, output=10.0)
    assert without.cost(usage) == pytest.approx(3.0)
    assert without.cost(usage.model_copy(update={"batch": True})) == pytest.approx(3.0), "no cheaper than it is known"


def test_cached_tokens_are_read_and_kept(journal):
    body = answer(tokens=5)
    body["usage"]["prompt_tokens_details"] = {"cached_tokens": 4}
    with ChatServer(lambda number, request: body) as server:
        first, again = ask(server, journal), ask(server, journal)
    assert first.completions[0].usage.cached_tokens == again.completions[0].usage.cached_tokens == 4


def attempt(model: str) -> Attempt:
    return Attempt(
        id="a", persona_id="p", persona="A tester.", sample=0, call=1, kind="script", script_call=None, text="",
        usage=Usage(prompt_tokens=10, completion_tokens=2), finish_reason="stop", teacher=model,
    )  # fmt: skip


def test_a_cost_that_is_not_known_is_unknown_and_never_nothing():
    prices = Prices(listed="test", models={"m": Price(input=0.0, output=1.0)})
    known, unknown = Account(prices), Account(prices)
    known.add_all([attempt("m"), attempt("m")])
    unknown.add_all([attempt("m"), attempt("other"), attempt("m")])
    assert known.total().cost_usd == pytest.approx(4e-6)
    assert unknown.total().cost_usd == unknown.each(3).cost_usd == UNKNOWN
    assert unknown.models_without_price == {"other"}


@pytest.mark.parametrize(
    ("text", "code", "values"),
    [
        ("listed: x\nmodels: {m: {input: -1, output: 1}}", "bad_value", {"key": "models.m.input"}),
        ("listed: x\nmodels: {m: {input: 1}}", "missing_key", {"key": "models.m.output"}),
        ("models: [", "not_yaml", {}),
        ("listed: x\nmodels: {m: {input: .nan, output: 1}}", "bad_value", {"key": "models.m.input"}),
    ],
)
def test_a_bad_table_of_prices_is_one_sentence(tmp_path, text, code, values):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with refused(code, file=path, **values):
        load_prices(str(path))
    with refused("file_missing", file=tmp_path / "none.yaml"):
        load_prices(str(tmp_path / "none.yaml"))


def test_the_simulated_teacher_costs_nothing_and_a_stranger_an_unknown_sum():
    usage = Usage(prompt_tokens=5, completion_tokens=5)
    assert load_prices(None).cost("offline-teacher", usage) == 0.0
    assert load_prices(None).cost("nobody-1", usage) is None
