"""Calls of the teacher's client, as tests make them: many at once, to any endpoint, with any settings."""

import asyncio
import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from agentrefine.llm.completion import Answer, Kind
from agentrefine.llm.journal import PAID, REPLAYED, Journal
from agentrefine.params.teacher import Role, TeacherParams
from agentrefine.synthesis.client import JournaledTeacher, run_numbers
from tests.helpers.chat_server import ChatServer
from tests.helpers.scripted_teacher import PARAMS

SECRET = "sk-very-secret-0123456789"


class Asked(NamedTuple):
    """What came of many calls.

    Attributes:
        completions: in the order of the questions.
        paid, replayed: calls that went out, and calls that the journal answered.
        numbers: all numbers that the processes of a run share, as they were at the end.
    """

    completions: list[Answer]
    paid: int
    replayed: int
    numbers: dict[str, float]

    @property
    def texts(self) -> list[str]:
        return [completion.text for completion in self.completions]


def settings(server: ChatServer | str, **changes: Any) -> TeacherParams:
    """The teacher's section with every role at `server`, plain text, two retries and other values by name.

    `temperature`, `max_tokens` hold for all roles; `script`, `trajectory` and `repair` add to one role.
    """
    values = PARAMS.teacher.model_dump() | {
        "base_url": server if isinstance(server, str) else server.base_url,
        "model": "m",
        "structured_output": "text",
        "max_retries": 2,
        "timeout_seconds": 5.0,
    }
    common = {name: changes.pop(name) for name in ("temperature", "max_tokens") if name in changes}
    for role in ("script", "trajectory", "repair"):
        values[role] = values[role] | {"max_tokens": 100} | common | changes.pop(role, {})
    return TeacherParams.model_validate(values | changes)


def questions(count: int, text: str = "hi") -> list[dict[str, Any]]:
    return [{"text": text, "sample": sample} for sample in range(count)]


async def complete(
    teacher: JournaledTeacher, text: str = "hi", sample: int = 0, kind: Kind = "script", role: Role = "script"
) -> Answer:
    return await teacher.complete([{"role": "user", "content": text}], kind=kind, role=role, sample=sample)


def ask(server: ChatServer | str, journal: Journal, asked: Iterable[dict[str, Any]] = ({},), **changes: Any) -> Asked:
    """The answers to questions asked at once: dicts with the arguments of `complete`."""
    params = settings(server, **changes)
    return ask_with(params, journal, journal.path.with_name("numbers"), asked)


def ask_with(
    params: TeacherParams, journal: Journal, shared: Path, asked: Iterable[dict[str, Any]], *, keep: bool = False
) -> Asked:
    """The same with all settings given, and with the shared numbers in a file that stays where `keep`."""

    async def work() -> Asked:
        with run_numbers(shared, params) as numbers:
            async with JournaledTeacher(params, journal, numbers) as teacher:
                completions = await asyncio.gather(*(complete(teacher, **question) for question in asked))
            seen = {name: numbers[name] for name in numbers._place}
            return Asked(list(completions), int(numbers[PAID]), int(numbers[REPLAYED]), seen)

    try:
        return asyncio.run(work())
    finally:
        if not keep:
            shared.unlink(missing_ok=True)


def in_processes(count: int, target: Callable[..., None], *arguments: Any) -> None:
    """Run `target(number, *arguments)` in so many processes at once; all must end well."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=target, args=(number, *arguments)) for number in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * count


def price_list(folder: Path, **models: dict[str, float]) -> str:
    """A file of prices; its path."""
    path = folder / "prices.yaml"
    path.write_text(yaml.safe_dump({"listed": "test", "models": models}))
    return str(path)
