"""How an endpoint is asked for JSON, and whether it does what it was asked."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, get_args

from agentrefine.errors import UserError
from agentrefine.files import packaged_text
from agentrefine.llm.completion import CUT, NO_ANSWER, UNANSWERED, Kind, Request, Usage, field_of_thoughts
from agentrefine.llm.endpoint import PROBE, Endpoint
from agentrefine.llm.reply import complete_usage
from agentrefine.llm.thinking import without_thinking
from agentrefine.llm.throttle import SharedNumbers
from agentrefine.params.teacher import TeacherRole

logger = logging.getLogger(__name__)

_Form = Literal["json_schema", "json_object", "text"]
_FORMS: tuple[_Form, ...] = get_args(_Form)
_JSON_OBJECT = {"type": "json_object"}
PROBE_TOKENS = 2048
"""Tokens of the probe's answer at the most: enough for a model that reasons before it answers."""


class JsonForm:
    """The form in which one model is asked for JSON, found out before its first call.

    Some servers refuse a `response_format`, others accept it and ignore it. So a probe asks for what nobody would
    answer but under the schema. `auto` takes JSON Schema, else JSON mode, else plain text; a form that params.yaml
    demands and that is not honoured is an error. What is found holds for the run: the processes share it.
    """

    def __init__(
        self, endpoint: Endpoint, role: TeacherRole, numbers: SharedNumbers, number: int, paid: Callable[[Usage], None]
    ) -> None:
        """Prepare to ask.

        Args:
            endpoint: who is asked.
            role: which model, with which settings, and the form that params.yaml demands.
            numbers: made with `form_number(number)` among its names.
            number: which of the run's models, settings and forms, from 0.
            paid: called with the usage of a probe.
        """
        self._endpoint = endpoint
        self._role = role
        self._numbers = numbers
        self._number = form_number(number)
        self._paid = paid
        self._probing = asyncio.Lock()

    async def response_format(self, kind: Kind) -> dict[str, Any] | None:
        """What to demand of an answer of this kind; None for plain text.

        JSON mode gives objects only, so a game, which is a list of turns, is then asked for as text.

        Raises:
            UserError: the form that params.yaml demands is not honoured.
        """
        async with self._probing:
            found = int(self._numbers[self._number])
            form = _FORMS[found - 1] if found else await self._find()
            self._numbers[self._number] = 1 + _FORMS.index(form)
        if form == "json_schema":
            return {"type": "json_schema", "json_schema": _schema(kind)}
        return _JSON_OBJECT if form == "json_object" and kind == "script" else None

    async def _find(self) -> _Form:
        wanted = self._role.structured_output
        if wanted == "text":
            return "text"
        schema = {"type": "json_schema", "json_schema": _schema("probe")}
        if wanted != "json_object":
            problem = await self._problem(schema, {"answer": "agentrefine"})
            if problem is None:
                return "json_schema"
            self._report(wanted, "json_schema", problem)
        problem = await self._problem(_JSON_OBJECT, None)
        if problem is None:
            return "json_object"
        self._report(wanted, "json_object", problem)
        return "text"

    async def _problem(self, response_format: dict[str, Any], expected: dict[str, str] | None) -> str | None:
        """Why a demand is not honoured; None when it is."""
        question = packaged_text("agentrefine.synthesis", "prompts", "schemas", "probe.md")
        probe = Request(
            model=self._role.model,
            messages=[{"role": "user", "content": question.strip()}],
            temperature=self._role.temperature,
            max_tokens=PROBE_TOKENS,
            seed=0,
            response_format=response_format,
            extra_body=self._role.extra_body,  # as in the calls that follow
        )
        answer = await self._endpoint.ask(PROBE, probe)
        if answer.finish_reason == UNANSWERED:
            return "a call that demands it fails, and others are answered"
        if answer.finish_reason in NO_ANSWER:
            return f"it is refused ({answer.said})"
        self._paid(complete_usage(answer, probe).usage)
        text = without_thinking(answer.text)
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            if isinstance(value, dict) and expected in (None, value):
                return None
        field = field_of_thoughts(answer.finish_reason)
        if field:
            return f"the answer has no content, all of it stands in {field}"
        if answer.finish_reason == CUT and not text.strip():
            return f"the answer was cut at {PROBE_TOKENS} tokens before its thoughts had ended"
        return f"it is accepted and ignored: the answer is {text[:60]!r}"

    def _report(self, wanted: str, form: str, problem: str) -> None:
        if wanted == form:
            raise UserError(
                "form_not_honoured",
                f"teacher.structured_output: {form} is not honoured by model {self._role.model!r} ({problem}); "
                "set it to auto or text.",
                key="teacher.structured_output",
                form=form,
                name=self._role.model,
            )
        level = logging.INFO if self._role.is_offline else logging.WARNING
        logger.log(level, "%s: %s is not used, %s", self._role.model, form, problem)


def form_number(number: int) -> str:
    """The name of the shared number that says which form was found; 0 before it was."""
    return f"form_{number}"


@cache
def _schema(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(packaged_text("agentrefine.synthesis", "prompts", "schemas", f"{name}.json"))
    return schema
