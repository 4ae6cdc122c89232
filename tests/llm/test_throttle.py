"""When calls go out: how many at once, how many a minute, and how long a pause holds, for all processes together."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from agentrefine.llm import throttle
from agentrefine.llm.journal import Journal
from agentrefine.llm.throttle import STOPPED, SharedNumbers, StoppedError, Throttle, throttle_numbers
from agentrefine.params.teacher import TeacherParams
from tests.helpers.asking import ask, ask_with, in_processes, questions, settings
from tests.helpers.chat_server import ChatServer, answer, error


@pytest.fixture
def numbers(tmp_path):
    with SharedNumbers(tmp_path / "numbers", [STOPPED, *throttle_numbers(0)]) as shared:
        yield shared


def make(numbers: SharedNumbers, most: int = 4, processes: int = 1, rpm: int | None = None, tpm: int | None = None):
    return Throttle(numbers, 0, max_in_flight=most, processes=processes, requests_per_minute=rpm, tokens_per_minute=tpm)


def test_calls_in_flight_are_bounded(journal):
    with ChatServer(lambda number, request: answer()) as server:
        ask(server, journal, questions(40), concurrency=5)
    assert server.most_at_once == 5


def test_a_slot_is_free_only_when_its_answer_is_on_disk(journal, monkeypatch):
    """So a run that is killed under load loses no more paid answers than may be in flight, however slow the disk."""
    write = journal._write

    def write_slowly(rows):
        time.sleep(0.05)
        write(rows)

    monkeypatch.setattr(journal, "_write", write_slowly)
    not_on_disk = []

    def reply(number, request):
        with closing(sqlite3.connect(journal.path)) as kept:
            not_on_disk.append(number - kept.execute("SELECT count(*) FROM answers").fetchone()[0])
        return answer()

    with ChatServer(reply) as server:
        ask(server, journal, questions(40), concurrency=4)
    assert len(not_on_disk) == 40
    assert max(not_on_disk) == 4


@pytest.mark.parametrize("kind", ["429", "time-out"])
def test_an_overload_halves_the_calls_in_flight_once(journal, kind):
    """All eight calls that are out fail at the same time: that is one overload."""

    def reply(number, request):
        return answer() if number > 8 else {"429": lambda: error(429), "time-out": lambda: "hang"}[kind]()

    with ChatServer(reply) as server:
        asked = ask(server, journal, questions(8), concurrency=8, timeout_seconds=0.5)
    assert asked.texts == ["hello"] * 8
    assert 4 <= asked.numbers["window_0"] < 8


def test_calls_that_were_out_before_a_cut_do_not_cut_again(numbers, monkeypatch):
    monkeypatch.setattr(throttle, "SECONDS_BETWEEN_DECREASES", 0.0)
    calls = make(numbers, most=16)
    sent = time.monotonic()
    for _ in range(5):
        time.sleep(0.01)
        calls.overloaded(sent)
    assert calls.share == 8
    calls.overloaded(time.monotonic() + 0.01)
    assert calls.share == 4


def test_the_calls_in_flight_grow_by_about_one_with_each_round(numbers):
    calls = make(numbers, most=32)
    numbers["window_0"] = 4.0
    sizes = []
    for _ in range(10):
        for _ in range(calls.share):
            calls.answered()
        sizes.append(calls.share)
    assert sizes[-1] in (13, 14)
    for _ in range(2000):
        calls.answered()
    assert calls.share == 32, "never above the most"


def test_at_least_one_call_may_always_go_out(numbers):
    calls = make(numbers, most=2)
    for _ in range(5):
        numbers["decreased_at_0"] = 0.0
        calls.overloaded(time.monotonic())
    assert calls.share == 1


@pytest.mark.parametrize("headers", [{"retry_after": "1"}, {"retry_after_ms": "1000"}], ids=["seconds", "milliseconds"])
def test_a_pause_that_the_endpoint_asks_for_holds_for_all_calls(journal, headers):
    with ChatServer(lambda number, request: error(429, **headers) if number == 1 else answer()) as server:
        asked = ask(server, journal, questions(12), concurrency=3)
    assert asked.texts == ["hello"] * 12
    started = server.times[0] + 0.01
    later = [at - started for at in server.times if at > server.times[0] + 0.2]
    assert len(later) >= 10
    assert min(later) >= 0.95


def ask_in_a_process(number: int, params: TeacherParams, folder: Path, count: int) -> None:
    with Journal(folder / "answers.sqlite") as journal:
        asked = [{"text": f"process {number}", "sample": sample} for sample in range(count)]
        done = ask_with(params, journal, folder / "numbers", asked, keep=True)
    assert done.texts == ["hello"] * count


def test_a_pause_holds_for_all_processes(tmp_path, monkeypatch):
    with ChatServer(lambda number, request: error(429, retry_after="2") if number == 1 else answer()) as server:
        params = settings(server, processes=2, concurrency=2, requests_per_minute=600)
        in_processes(2, ask_in_a_process, params, tmp_path, 20)
    started = server.times[0]
    paused = [at - started for at in server.times if 0.5 < at - started < 1.9]
    assert paused == []
    assert len(server.requests) == 41


@pytest.mark.parametrize("processes", [1, 2])
def test_requests_a_minute_are_held_by_all_processes_together(tmp_path, processes):
    rate = 20.0
    with ChatServer(lambda number, request: answer()) as server:
        params = settings(server, processes=processes, concurrency=16, requests_per_minute=int(60 * rate))
        in_processes(processes, ask_in_a_process, params, tmp_path, 80 // processes)
    seconds = server.times[-1] - server.times[0]
    allowed_at_once = rate * throttle.BURST_SECONDS
    assert len(server.times) == 80
    assert rate * (seconds + 0.4) + allowed_at_once >= 80, "what a busy machine may delay the first by"
    assert seconds < 20, "and they are used"


def test_tokens_a_minute_are_held(journal):
    """Each call takes 7 + 43 tokens; 500 a second are allowed."""
    with ChatServer(lambda number, request: answer(tokens=43)) as server:
        ask(server, journal, questions(40), concurrency=4, tokens_per_minute=30_000)
    seconds = server.times[-1] - server.times[0]
    assert 500 * (seconds + throttle.BURST_SECONDS) + 50 >= (40 - 4) * 50
    assert seconds < 6, "the tokens that were booked and not used are free again"


def test_a_minute_with_its_burst_holds_no_more_than_the_ceiling(numbers, monkeypatch):
    """On a clock of its own: calls as early as they may, for three minutes."""
    clock = [1000.0]
    monkeypatch.setattr(throttle.time, "monotonic", lambda: clock[0])

    async def sleep(_: SharedNumbers, seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(SharedNumbers, "sleep", sleep)
    calls = make(numbers, rpm=30)
    went: list[float] = []

    async def work() -> None:
        while clock[0] < 1180:
            async with calls.slot(1):
                went.append(clock[0])

    asyncio.run(work())
    assert max(sum(start <= at < start + 60 for at in went) for start in went) <= 30
    assert len(went) > 85


def test_calls_that_are_given_up_take_no_slot_with_them(numbers):
    """Waiting calls are cancelled at every point, and the rest still gets through with the full number at once."""
    calls = make(numbers, most=3)
    at_once = most_at_once = done = 0

    async def call() -> None:
        nonlocal at_once, most_at_once, done
        async with calls.slot(1):
            at_once += 1
            most_at_once = max(most_at_once, at_once)
            try:
                await asyncio.sleep(0.002)
            finally:
                at_once -= 1
            done += 1

    async def work() -> None:
        tasks = [asyncio.create_task(call()) for _ in range(60)]
        for number, task in enumerate(tasks):
            if number % 3 == 1:
                await asyncio.sleep(0.001)
                task.cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 5

    asyncio.run(work())
    assert done >= 40
    assert (most_at_once, calls.in_flight) == (3, 0)


def test_the_slot_of_a_call_that_failed_is_free_again(numbers):
    calls = make(numbers, most=1)

    async def work() -> None:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with calls.slot(1):
                    _ = 1 / 0

    asyncio.run(asyncio.wait_for(work(), 5))
    assert calls.in_flight == 0


def test_waiting_calls_end_soon_when_the_run_is_stopped(numbers):
    calls = make(numbers, most=2)
    calls.overloaded(time.monotonic(), retry_after=600)

    async def call() -> None:
        async with calls.slot(1):
            raise AssertionError("no call goes out")

    async def work() -> list[BaseException | None]:
        tasks = [asyncio.create_task(call()) for _ in range(6)]
        await asyncio.sleep(0.05)
        numbers[STOPPED] = 1.0
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 3)

    assert {type(error) for error in asyncio.run(work())} == {StoppedError}
