"""Synthesis: the first script and the first game of every sample of a persona."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

from agentrefine.errors import UserError
from agentrefine.game.personas import Persona
from agentrefine.game.verdict import Attempt
from agentrefine.llm.completion import SAMPLES_PER_CALL, ChatMessage, Kind, Teacher
from agentrefine.params import Params
from agentrefine.params.teacher import Role
from agentrefine.synthesis.prompts import script_messages, trajectory_messages
from agentrefine.verification.script_rules import verify_script

ResultT = TypeVar("ResultT")


async def synthesise(persona: Persona, sample: int, teacher: Teacher, params: Params) -> list[Attempt]:
    """The first answers of one sample: a script and, when it is sound, a game of it.

    Raises:
        UserError: the teacher refuses for good.
    """
    first = await ask(script_messages(persona), "script", "script", persona, sample, 1, teacher)
    # The script is not kept: with its compiled expressions it takes a hundred kilobytes, and thousands of samples wait.
    messages = _game_messages(persona, first.text, params)
    if messages is None:
        return [first]
    second = await ask(messages, "trajectory", "trajectory", persona, sample, 2, teacher, script_call=1)
    return [first, second]


def _game_messages(persona: Persona, answer: str, params: Params) -> list[ChatMessage] | None:
    """Asks for a game of the script in an answer; None when the script is not sound."""
    script = verify_script(answer).script
    if script is None:
        return None
    return trajectory_messages(
        persona,
        script,
        mistakes=params.verification.min_error_refine_turns,
        max_turns=params.verification.max_turns,
    )


async def ask(
    messages: list[ChatMessage],
    kind: Kind,
    role: Role,
    persona: Persona,
    sample: int,
    call: int,
    teacher: Teacher,
    *,
    script_call: int | None = None,
) -> Attempt:
    """One call of a sample's budget. Every call is a draw of its own, also when its prompt is that of another call.

    Raises:
        UserError: the teacher refuses for good.
    """
    answer = await teacher.complete(messages, kind=kind, role=role, sample=sample + SAMPLES_PER_CALL * (call - 1))
    return Attempt(
        id=answer.id,
        persona_id=persona.id,
        persona=persona.text,
        sample=sample,
        call=call,
        kind=kind,
        script_call=script_call,
        text=answer.text,
        usage=answer.usage,
        finish_reason=answer.finish_reason,
        teacher=answer.model,
    )


async def synthesise_shard(
    samples: Iterable[tuple[Persona, int]],
    teacher: Teacher,
    params: Params,
    on_done: Callable[[], None] = lambda: None,
) -> list[list[Attempt]]:
    """The first answers of many samples, all at work at once, in the order of `samples`.

    The teacher bounds the calls in flight; `on_done` is called whenever a sample is done.

    Raises:
        UserError: the teacher refuses for good; the other samples are given up.
    """
    return await gather_or_raise((synthesise(persona, sample, teacher, params) for persona, sample in samples), on_done)


async def gather_or_raise(work: Iterable[Coroutine[Any, Any, ResultT]], on_done: Callable[[], None]) -> list[ResultT]:
    """Run all at once; results in the order of `work`. The first `UserError` ends the rest and is raised."""

    async def counted(one: Coroutine[Any, Any, ResultT]) -> ResultT:
        result = await one
        on_done()
        return result

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(counted(one)) for one in work]
    except* UserError as errors:
        failure = errors.exceptions[0]
    else:
        return [task.result() for task in tasks]
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    raise failure
