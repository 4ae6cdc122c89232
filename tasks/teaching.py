"""The teacher as tasks use it: one server or endpoint for a stage, one client for a task."""

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from prefect import get_run_logger
from prefect.client.schemas.objects import State

from agentrefine.errors import UserError
from agentrefine.params import TeacherParams
from agentrefine.teacher.client import OpenAITeacher, offline_endpoint
from agentrefine.teacher.journal import Journal
from agentrefine.teacher.offline.process import offline_teacher
from tasks.caching import source_digest

JOURNAL = Path("data/journal/answers.sqlite")
"""Every answer of every teacher; outside of what DVC deletes, so that nothing is paid for twice."""

OFFLINE_SOURCES = ("agentrefine.teacher.offline", "agentrefine.worlds")
"""What decides the offline teacher's answers; its old answers are not replayed when that has changed."""

Item = TypeVar("Item")


@contextmanager
def teacher_address(params: TeacherParams) -> Iterator[str]:
    """The base URL of the teacher; the offline teacher runs while the block does."""
    if params.is_offline:
        with offline_teacher(params.offline) as address:
            yield address
    else:
        yield params.base_url


@asynccontextmanager
async def open_teacher(params: TeacherParams, base_url: str) -> AsyncIterator[OpenAITeacher]:
    """A client of the teacher at `base_url`, with the journal open."""
    endpoint = offline_endpoint(params, source_digest(*OFFLINE_SOURCES)) if params.is_offline else None
    with Journal(JOURNAL) as journal:
        async with OpenAITeacher(params, journal, base_url=base_url, endpoint=endpoint) as teacher:
            yield teacher
            get_run_logger().info(
                "%d answers, %d of them from the journal", teacher.paid + teacher.replayed, teacher.replayed
            )


def shards(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while shard := list(islice(iterator, size)):
        yield shard


def unless_users_mistake(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether a failed task is worth another try: not when the user has to mend something."""
    return not isinstance(state.result(raise_on_failure=False), UserError)
