"""The first answers of a sample: a script and, when it is sound, a game of it."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

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
        UserError: the teacher refuses for good; so do all functions here.
    """
    first = await ask(teacher, "script", script_messages(persona), persona, sample, 1)
    script = verify_script(first.text).script
    if script is None:
        return [first]
    messages = trajectory_messages(persona, script, params.verification)
    del script  # with its compiled expressions it takes a hundred kilobytes, and thousands of samples wait
    return [first, await ask(teacher, "trajectory", messages, persona, sample, 2, script_call=1)]


async def synthesise_shard(
    samples: Iterable[tuple[Persona, int]], teacher: Teacher, params: Params, on_done: Callable[[], None] = lambda: None
) -> list[list[Attempt]]:
    """The first answers of many samples, all at work at once, in the order of `samples`.

    The teacher bounds the calls in flight; `on_done` is called whenever a sample is done. The first error ends the
    work on all samples and is raised.
    """
    work = (synthesise(persona, sample, teacher, params) for persona, sample in samples)
    return await gather_or_raise(work, on_done)


async def gather_or_raise(work: Iterable[Coroutine[Any, Any, ResultT]], on_done: Callable[[], None]) -> list[ResultT]:
    """Run all at once; results in the order of `work`. The first error ends the rest and is raised."""

    async def counted(one: Coroutine[Any, Any, ResultT]) -> ResultT:
        result = await one
        on_done()
        return result

    tasks = [asyncio.create_task(counted(one)) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ask(
    teacher: Teacher,
    role: Role,
    messages: list[ChatMessage],
    persona: Persona,
    sample: int,
    call: int,
    *,
    script_call: int | None = None,
) -> Attempt:
    """One call of a sample's budget, for a script, or for a game of the script that the call `script_call` brought.

    Every call is a draw of its own, also when its prompt is that of another call.
    """
    kind: Kind = "script" if script_call is None else "trajectory"
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
