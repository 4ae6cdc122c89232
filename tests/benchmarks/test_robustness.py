"""Every benchmark under bad actions: each is answered, and nothing is left open, started or kept that grows."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from agentrefine.benchmarks.alfworld.benchmark import PerturbedEnvironment
from agentrefine.benchmarks.base import SimulatorError
from agentrefine.benchmarks.catalogue import BENCHMARKS
from agentrefine.benchmarks.simulators import SimulatorBenchmark
from agentrefine.benchmarks.worker import group
from tests.helpers.playing import JUNK, installed, opened
from tests.helpers.processes import end

SAME_SIMULATOR = ("alfworld_perturbed", "jericho")
"""Here a fifth of the actions does, as the simulator is that of another benchmark."""

MIB = 2**20


def spoiled(action):
    """A possible action, made a bad one in ways that a parser may fall for."""
    return (
        f"{action}\n{action}",
        f"{action}\r\n{action}",
        f"{action}\u2028{action}",
        f"\n\n{action}\x00",
        f"{action}; {action}",
        f"{action}. {action}",
        f"{action} " * 1_000,
        action.replace("o", "о"),  # the Cyrillic letter
        action[:-1],
        f"{action} 1",
        action.split(" ")[0],
        f"{action.split(' ')[0]} the moon 1",
        "{" + action + "}",
    )


class Held(NamedTuple):
    """What processes hold."""

    files: int
    processes: int
    memory: int


def held(processes):
    files = memory = 0
    for process in processes:
        files += len(list(Path(f"/proc/{process}/fd").iterdir()))
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        memory += pages * os.sysconf("SC_PAGE_SIZE")
    return Held(files, len(processes), memory)


def here():
    gc.collect()
    return held([os.getpid()])


def there(chosen, environment):
    return held(process_group(chosen, environment))


def process_group(chosen, environment):
    if not isinstance(chosen, SimulatorBenchmark):
        return []
    remote = environment._game if isinstance(environment, PerturbedEnvironment) else environment
    return group(remote._worker._process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_thousand_actions_are_answered_and_leave_nothing(name):
    """Half of them possible, half junk. After the first 300 no process is added, two files at the most (the bridge to
    Java opens a connection once), and less memory than 64 MiB here and 192 MiB in the simulator's processes (a Java
    machine takes its heap in large pieces)."""
    chosen, [episode] = installed(name)
    with opened(chosen, episode) as environment:
        rng = Random(1)
        actions = 200 if name in SAME_SIMULATOR else 1_000
        for number in range(actions):
            if number == actions * 3 // 10:
                before = here(), there(chosen, environment)
            if number % 10 == 0:
                possible = environment.possible()
            action = rng.choice(possible) if number % 2 else rng.choice((*JUNK, *spoiled(rng.choice(possible))))
            result = environment.step(action)
            assert 0 < len(result.observation) < 20_000
            assert 0 <= result.progress <= 1
            if result.done:
                environment.reset()
                possible = environment.possible()
        after = here(), there(chosen, environment)
        for earlier, later, allowed in zip(before, after, (64 * MIB, 192 * MIB), strict=True):
            assert later.files <= earlier.files + 2
            assert later.processes == earlier.processes
            assert later.memory - earlier.memory < allowed
            assert later.memory < 1500 * MIB
        processes = process_group(chosen, environment)
    if isinstance(chosen, SimulatorBenchmark):
        chosen.workers.close()
    assert end(*processes)


@pytest.mark.slow
def test_a_simulator_whose_java_machine_is_killed_ends_its_episode_and_no_other():
    chosen, [episode] = installed("sciworld")
    environment = chosen.make(episode)
    first = environment.reset()
    members = group(environment._worker._process.pid)
    for process in members:
        if "java" in Path(f"/proc/{process}/comm").read_text():
            os.kill(process, signal.SIGKILL)
    with pytest.raises(SimulatorError, match="sciworld"):
        environment.step("look around")
    environment.close()
    assert end(*members)
    again = chosen.make(episode)
    assert again.reset() == first
    again.close()
    chosen.workers.close()


PLAYING = """
    import signal
    from agentrefine.evaluation.rollout import play
    from agentrefine.evaluation.reference import IdlePolicy
    from agentrefine.benchmarks.catalogue import benchmark

    class Reporting(IdlePolicy):
        def act(self, dialogues):
            print(made[0]._worker._process.pid, flush=True)
            return super().act(dialogues)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background do not have
    chosen, made = benchmark("sciworld"), []
    make = chosen.make
    chosen.make = lambda episode: made.append(make(episode)) or made[-1]
    for _ in play(Reporting(), chosen, chosen.episodes(1, 7), max_steps=100_000, batch_size=1):
        pass
"""


@pytest.mark.slow
def test_an_interrupted_evaluation_leaves_no_simulator():
    installed("sciworld")
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PLAYING)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    members = group(int(parent.stdout.readline()))
    assert len(members) == 2  # Python and Java
    parent.send_signal(signal.SIGINT)
    parent.wait(timeout=30)
    parent.stdout.close()
    assert end(*members)
