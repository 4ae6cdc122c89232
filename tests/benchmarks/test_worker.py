"""A simulator in a process of its own: whatever it does, the evaluation continues and no process stays behind."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from agentrefine.benchmarks.base import EpisodeSpec, NoSolutionError, SimulatorError, UnlistedActionsError
from agentrefine.benchmarks.worker import Limits, RemoteEnvironment, Workers
from tests.helpers.paths import ROOT
from tests.helpers.processes import end, runs

FAKE = "tests.helpers.fake_simulator:FakeSimulator"


def spec(number=1, task="any"):
    return EpisodeSpec(id=f"fake.{number}", benchmark="fake", task=task, seed=number)


def begun(workers, number=1):
    environment = RemoteEnvironment(workers, spec(number))
    return environment, int(environment.reset().removeprefix("process "))


@pytest.fixture
def workers():
    pool = Workers(FAKE, Limits(start=20, step=2))
    yield pool
    pool.close()


def test_an_episode_is_played_as_if_it_ran_here(workers):
    environment, _ = begun(workers)
    assert (environment.actions, environment.goal) == ({"act": "do it"}, "goal of fake.1")
    result = environment.step("say żółć\n  $x")
    assert result.observation == "1: żółć\n  $x"
    assert (result.progress, result.success, result.done, result.valid) == (0.5, False, False, True)
    environment.close()


def test_fifty_episodes_share_a_process_and_two_at_once_do_not(workers):
    seen = set()
    for number in range(50):
        environment, pid = begun(workers, number)
        assert environment.goal == f"goal of fake.{number}"
        assert environment.step("say hello").observation == "1: hello"
        seen.add(pid)
        environment.close()
    assert len(seen) == 1
    first, one = begun(workers)
    second, other = begun(workers)
    assert one != other
    first.close()
    second.close()
    workers.close()
    assert end(one, other)


def test_a_worker_is_replaced_after_its_episodes():
    workers = Workers(FAKE, Limits(start=20, step=2, episodes=2))
    pids = []
    for _ in range(4):
        environment, pid = begun(workers)
        environment.close()
        pids.append(pid)
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert end(pids[0])
    workers.close()


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("raise out of coffee", "RuntimeError: out of coffee"),
        ("exit 3", "exit status 3"),
        ("segfault", "killed by SIGSEGV"),
        ("hang", "did not answer step within 2 s"),
        ("junk", "not JSON serializable"),
        ("long 5000000", "junk"),
    ],
)
def test_a_failing_simulator_ends_its_episode_and_no_other(workers, action, said):
    broken, pid = begun(workers)
    sound, _ = begun(workers)
    with pytest.raises(SimulatorError, match=said):
        broken.step(action)
    assert end(pid)
    with pytest.raises(SimulatorError, match="not running"):
        broken.step("say hello")
    broken.close()
    assert sound.step("say hello").observation == "1: hello"
    sound.close()
    fresh, _ = begun(workers, 2)
    assert fresh.step("say hello").observation == "1: hello"
    fresh.close()


def test_what_a_simulator_prints_or_reads_is_no_answer_and_no_call(workers):
    environment, _ = begun(workers)
    assert environment.step('print {"result":[1,2]}').observation == '1: {"result":[1,2]}'
    assert environment.step("read").observation == "2: ''"
    environment.close()


def test_memory_is_bounded_and_variables_are_set():
    workers = Workers(FAKE, Limits(start=20, step=5, memory=2**30, variables={"FAKE_VARIABLE": "set"}))
    environment, _ = begun(workers)
    assert environment.step("variable FAKE_VARIABLE").observation == "set"
    assert environment.step(f"grow {2**20}").observation == str(2**20)
    with pytest.raises(SimulatorError, match="MemoryError"):
        environment.step(f"grow {2**31}")
    environment.close()
    workers.close()


def test_why_there_is_no_solution_is_reported_also_by_a_dead_simulator(workers):
    assert workers.gold(spec(7)) == ["win fake.7"]
    with pytest.raises(NoSolutionError, match=r"^lost for good$"):
        workers.gold(spec(8, task="unsolvable"))
    with pytest.raises(NoSolutionError, match="fake_simulator died in gold: exit status 1"):
        workers.gold(spec(8, task="deadly"))
    assert workers.gold(spec(9)) == ["win fake.9"]


def test_what_is_possible_is_asked_of_the_process(workers):
    environment, _ = begun(workers)
    assert environment.possible() == ["say 0"]
    environment.step("say hello")
    assert environment.possible() == ["say 1"]
    environment.close()
    with pytest.raises(SimulatorError, match="not running"):
        environment.possible()


def test_a_simulator_that_lists_no_actions_says_why_and_plays_on(workers):
    environment = RemoteEnvironment(workers, spec(task="unlisted"))
    environment.reset()
    with pytest.raises(UnlistedActionsError, match=r"^there is no list$"):
        environment.possible()
    assert environment.step("say hello").observation == "1: hello"
    environment.close()


def test_the_memory_of_a_process_and_of_what_it_started_is_reported(workers):
    environment, _ = begun(workers)
    environment.step("child")
    environment.step(f"grow {64 * 2**20}")
    environment.close()
    assert 64 * 2**20 < workers.peak_memory() < 2**30


@pytest.mark.parametrize("action", ["raise out of coffee", "exit 3", "segfault", "hang", "junk"])
def test_what_a_simulator_started_ends_when_it_fails(workers, action):
    environment, pid = begun(workers)
    child = int(environment.step("child").observation)
    with pytest.raises(SimulatorError):
        environment.step(action)
    environment.close()
    assert end(pid, child)


def test_what_a_simulator_started_ends_with_it(workers):
    environment, pid = begun(workers)
    child = int(environment.step("child").observation)
    assert runs(child)
    environment.close()
    assert runs(pid)
    workers.close()
    assert end(pid, child)


def test_workers_end_with_their_benchmark():
    workers = Workers(FAKE, Limits(start=20))
    environment, pid = begun(workers)
    environment.close()
    del environment, workers
    gc.collect()
    assert end(pid)


def test_an_interrupted_call_is_not_answered_by_the_next(workers):
    environment, pid = begun(workers)

    def interrupt(*_):
        raise KeyboardInterrupt

    earlier = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            environment.step("hang")
    finally:
        signal.signal(signal.SIGALRM, earlier)
    assert end(pid)
    environment.close()
    again, other = begun(workers)
    assert other != pid
    again.close()


PARENT = """
    import signal
    from agentrefine.benchmarks.base import EpisodeSpec
    from agentrefine.benchmarks.worker import Limits, RemoteEnvironment, Workers

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background do not have
    workers = Workers("tests.helpers.fake_simulator:FakeSimulator", Limits(start=20, step=600))
    environment = RemoteEnvironment(workers, EpisodeSpec(id="x", benchmark="fake", task="any", seed=1))
    print(environment.reset().removeprefix("process "), flush=True)
    print(environment.step("child").observation, flush=True)
    environment.step("hang")
"""


@pytest.mark.parametrize("sent_signal", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_when_the_evaluation_is_killed_or_interrupted(sent_signal):
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )
    worker, child = int(parent.stdout.readline()), int(parent.stdout.readline())
    assert runs(worker)
    parent.send_signal(sent_signal)
    parent.wait(timeout=10)
    parent.stdout.close()
    assert end(worker, child)


def test_an_episode_that_is_closed_while_its_worker_starts_does_not_keep_it(workers, monkeypatch):
    starting, proceed = threading.Event(), threading.Event()
    take = workers.take

    def slow():
        starting.set()
        assert proceed.wait(timeout=20)
        return take()

    monkeypatch.setattr(workers, "take", slow)
    environment = RemoteEnvironment(workers, spec())
    outcome = []

    def start():
        try:
            environment.reset()
        except SimulatorError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    assert starting.wait(timeout=20)
    environment.close()
    proceed.set()
    thread.join(timeout=20)
    assert outcome == ["the episode was closed"]
    assert len(workers._idle) == 1


def test_an_episode_that_is_closed_while_it_moves_is_stopped_at_once(workers):
    environment, _ = begun(workers)
    outcome = []

    def hang():
        try:
            environment.step("hang")
        except SimulatorError as error:
            outcome.append(str(error))

    thread = threading.Thread(target=hang)
    thread.start()
    while not environment._at_work:
        time.sleep(0.01)
    began = time.monotonic()
    environment.close()
    thread.join(timeout=20)
    assert time.monotonic() - began < 10
    assert len(outcome) == 1
    assert workers._idle == []
