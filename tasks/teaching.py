"""The teacher as tasks use it: its server and shared numbers for a stage, one client for a task, several processes."""

import asyncio
import gc
import os
import signal
import tempfile
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from prefect import get_client, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner
from prefect.tasks import exponential_backoff

from agentrefine.errors import UserError
from agentrefine.llm.journal import PAID, REPLAYED, Journal
from agentrefine.llm.spending import BudgetSpentError, dollars
from agentrefine.llm.throttle import STOPPED, SharedNumbers
from agentrefine.params import Params
from agentrefine.params.teacher import TeacherParams
from agentrefine.simulation.process import simulated_teacher
from agentrefine.sources import digest
from agentrefine.synthesis.accounts import Account
from agentrefine.synthesis.client import (
    DONE,
    SIMULATED_MODULE,
    JournaledTeacher,
    SimulatedAddress,
    run_numbers,
    simulated_name,
)
from tasks.tracking.progress import Progress

JOURNAL = Path("data/journal/answers.sqlite")
"""Every answer of every teacher; outside of what DVC deletes, so that nothing is paid for twice."""

SECONDS_BETWEEN_CHECKS = 1.0
"""Seconds between checks of the shards, each a request to Prefect's server, and of the process that owns a stage."""
SAMPLES_PER_BATCH = 10_000
"""Samples of a shard whose calls go through the Batch API."""
SAMPLES_PER_SLOT = 6
"""Samples of a shard for each call that a process may have in flight."""
SHARDS_AHEAD = 2
"""Shards that each process has been given, so that none waits for the next; more would only take memory."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Sequence[Item], JournaledTeacher, Params, Callable[[], None]], Awaitable[list[Result]]]
"""Works on samples with a teacher, and calls the last argument whenever one is done."""


@dataclass(frozen=True)
class Access:
    """All that a task needs to reach the teacher, in whichever process it runs.

    Attributes:
        params: the teacher's section of params.yaml.
        simulated: where the simulated teacher listens, if it has a role.
        numbers: the file of the run's shared numbers.
        owner: the process that runs the stage.
    """

    params: TeacherParams
    simulated: SimulatedAddress | None
    numbers: Path
    owner: int


@contextmanager
def access_to(params: TeacherParams, *, spent: float = 0.0) -> Iterator[Access]:
    """Access to the teacher for one stage; the simulated teacher, if it has a role, runs while the block does.

    `spent` is what earlier calls for the same data set have cost, in US dollars.
    """
    with (
        tempfile.TemporaryDirectory(prefix="agentrefine-") as folder,
        simulated_teacher(params.offline) if params.uses_simulated_teacher else nullcontext() as address,
    ):
        simulated = SimulatedAddress(address, simulated_name(params, digest(SIMULATED_MODULE))) if address else None
        access = Access(params, simulated, Path(folder) / "numbers", os.getpid())
        with run_numbers(access.numbers, params) as numbers:
            numbers["spent"] = spent
        yield access


async def _stop_without_owner(owner: int, numbers: SharedNumbers) -> None:
    """Let no more calls go out once the process that runs the stage is dead: nobody counts what they cost."""
    parent = os.getppid()
    while owner == os.getpid() or (os.getppid() == parent and _is_alive(owner)):
        await asyncio.sleep(SECONDS_BETWEEN_CHECKS)
    numbers[STOPPED] = 1.0


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def run_shards(
    stage: str,
    work: Work[Item, Result],
    shards: Iterable[tuple[str, Sequence[Item]]],
    params: Params,
    access: Access,
    bar: Progress,
) -> Generator[list[Result]]:
    """The results of each shard, in their order, as many shards at once as there are processes.

    When a shard fails, or the run is interrupted, no more calls go out; those that are out are waited for, as they are
    paid for.

    `shards` are the samples of each, with the id that its task run is named after; `work` works on all samples of one
    at once (`synthesise_shard` or `repair_shard`). `bar` shows the samples that the processes have done.
    """
    pending: deque[PrefectFuture[list[Result]]] = deque()
    shards = iter(shards)
    with (
        run_numbers(access.numbers, access.params) as numbers,
        # The processes report to the server that this one reports to, instead of each starting its own.
        get_client(sync_client=True) as client,
        temporary_settings({PREFECT_API_URL: str(client.api_url)}),
        _task_runner(access.params) as runner,
    ):
        try:
            while True:
                for name, shard in islice(shards, params.teacher.processes * SHARDS_AHEAD - len(pending)):
                    named = run_shard.with_options(name=stage, task_run_name=f"{stage}-{name}")
                    arguments = {"work": work, "samples": shard, "params": params, "access": access}
                    pending.append(runner.submit(named, parameters=arguments))
                if not pending:
                    break
                _wait_for_the_first(pending, numbers, bar)
                yield pending.popleft().result()
        except BudgetSpentError as error:
            message = f"{error} {bar.done:,} of {bar.total:,} samples are done."
            raise UserError(error.code, message, **error.values) from error
        except BrokenProcessPool as error:
            raise UserError(
                "process_ended",
                "A process that asks the teacher was ended from outside, perhaps for want of memory; lower "
                "teacher.processes or synthesis.shard_size and run the same command again: answers so far are kept.",
            ) from error
        finally:
            numbers[STOPPED] = 1.0
            for future in pending:  # those that a runner cancels may outlive it
                with suppress(BrokenProcessPool):  # of processes that SIGTERM reached too: not why the run ends
                    future.wait()
        bar.reach(int(numbers[DONE]))
        paid, replayed = int(numbers[PAID]), int(numbers[REPLAYED])
        get_run_logger().info("%d answers, %d of them from the journal", paid + replayed, replayed)


def _retry_unless_user_error(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether a failed task is worth another try: not when the user has to fix something."""
    return not isinstance(state.result(raise_on_failure=False), UserError)


# Not cached: the journal answers what has been asked before, call by call, also after a crash in mid-shard.
@task(
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=exponential_backoff(5),
    retry_condition_fn=_retry_unless_user_error,
)
def run_shard(work: Work[Item, Result], samples: Sequence[Item], params: Params, access: Access) -> list[Result]:
    """The results of a shard of samples, in their order."""
    if gc.get_freeze_count() == 0:
        # What is loaded now, Prefect's modules above all, stays: 200,000 objects in which no garbage need be sought.
        gc.collect()
        gc.freeze()

    async def ask() -> list[Result]:
        with run_numbers(access.numbers, access.params) as numbers, Journal(JOURNAL) as journal:
            hold_sigterm(numbers)
            watch = asyncio.create_task(_stop_without_owner(access.owner, numbers))
            try:
                async with JournaledTeacher(access.params, journal, numbers, access.simulated) as teacher:
                    return await work(samples, teacher, params, lambda: numbers.add(DONE, 1))
            finally:
                watch.cancel()

    with _sigterm_waits() as hold_sigterm:
        return uvloop.run(ask())


@contextmanager
def _sigterm_waits() -> Iterator[Callable[[SharedNumbers], None]]:
    """Hold SIGTERM back until the block is left, as what is in flight is paid for.

    Yields a function for the event loop of the block: from then on the signal lets no more calls go out. uvloop would
    swallow what another handler raises. It comes to a process of the pool too: systemd sends it to a whole service.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda _: None
        return
    earlier, came = signal.getsignal(signal.SIGTERM), threading.Event()

    def hold(numbers: SharedNumbers) -> None:
        def stop() -> None:
            came.set()
            numbers[STOPPED] = 1.0

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)

    try:
        yield hold
    finally:
        signal.signal(signal.SIGTERM, earlier)
        if came.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_the_first(pending: "deque[PrefectFuture[list[Result]]]", numbers: SharedNumbers, bar: Progress) -> None:
    """Wait until the first shard has its result, or any has failed: then raise."""
    while not pending[0].state.is_final():
        pending[0].wait(timeout=SECONDS_BETWEEN_CHECKS)
        bar.reach(int(numbers[DONE]))
        for future in pending:
            future.wait(timeout=0)
            if future.state.is_failed() or future.state.is_crashed():
                future.result()


def _task_runner(params: TeacherParams) -> "TaskRunner[Any]":
    """Runs as many tasks at once as there are processes.

    Raises:
        UserError: Dask is asked for and not installed.
    """
    if params.task_runner == "dask":
        try:
            from prefect_dask import DaskTaskRunner
        except ImportError as error:
            raise UserError(
                "not_installed",
                "teacher.task_runner: Dask is not installed; run `pip install 'agentrefine[dask]'`, or set prefect.",
                key="teacher.task_runner",
                name="dask",
            ) from error
        cluster = {"n_workers": params.processes, "threads_per_worker": 1, "dashboard_address": None}
        dask: TaskRunner[Any] = DaskTaskRunner(cluster_kwargs=cluster)
        return dask
    if params.processes == 1:
        return ThreadPoolTaskRunner(max_workers=1)
    return ProcessPoolTaskRunner(
        max_workers=params.processes, initializer=_prepare_process, initargs=(params.timeout_seconds,)
    )


def _prepare_process(seconds_for_calls: float) -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the parent, and end some time after it has died."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # for the processes that it may start
    threading.Thread(target=_end_after_parent, args=(os.getppid(), seconds_for_calls), daemon=True).start()


def _end_after_parent(parent: int, seconds_for_calls: float) -> None:
    """End this process when its parent is dead and the calls that were out have had their time to come back."""
    while os.getppid() == parent:
        time.sleep(SECONDS_BETWEEN_CHECKS)
    time.sleep(seconds_for_calls)
    os._exit(1)


def shard_size(params: Params) -> int:
    """Samples per task. What waits for the Batch API waits together, so that there are few batches.

    A shard ends with its slowest call, so it holds several times as many samples as may be in flight.
    """
    if params.teacher.transport == "batch":
        return SAMPLES_PER_BATCH
    in_flight = params.teacher.concurrency // params.teacher.processes
    return max(params.synthesis.shard_size, SAMPLES_PER_SLOT * in_flight)


def log_cost(what: str, account: Account) -> None:
    """Log what calls have cost, or why that is not known, and how many had no answer."""
    logger = get_run_logger()
    if account.unanswered:
        logger.warning(
            "%s: %d of %d calls had no answer (rule no_answer); `dvc repro -f synthesis repair` asks them again",
            what, account.unanswered, account.calls,
        )  # fmt: skip
    if account.cost is None:
        logger.warning(
            "%s: cost unknown, no price for %s; give one in a file that teacher.prices names",
            what, ", ".join(sorted(account.models_without_price)),
        )  # fmt: skip
        return
    tokens = account.prompt_tokens + account.completion_tokens
    about = f" (estimated for {account.estimated}, which were not counted)" if account.estimated else ""
    logger.info("%s: %s for %d calls of %d tokens%s", what, dollars(account.cost), account.calls, tokens, about)
