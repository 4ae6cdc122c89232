"""How an endpoint is asked for JSON, and whether it does what it was asked."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

from agentrefine.errors import UserError
from agentrefine.files import packaged_text
from agentrefine.llm.completion import NO_ANSWER, TRUNCATED, UNANSWERED, Kind, Request, Usage, field_of_thoughts
from agentrefine.llm.endpoint import PROBE, Endpoint
from agentrefine.llm.reply import complete_usage
from agentrefine.llm.thinking import without_thinking
from agentrefine.llm.throttle import SharedNumbers
from agentrefine.params.teacher import TeacherRole

logger = logging.getLogger(__name__)

_Form = Literal["json_schema", "json_object", "text"]
_FORMS: tuple[_Form, ...] = get_args(_Form)
PROBE_TOKENS = 2048
"""Tokens of the probe's answer at most: enough for a model that reasons before it answers."""


@dataclass(eq=False)
class JsonForm:
    """The form in which one model is asked for JSON, found out before its first call.

    Some servers refuse a `response_format`, others accept it and ignore it. So a probe asks for what nobody would
    answer but under the schema. `auto` takes JSON Schema, else JSON mode, else plain text; a form that params.yaml
    demands and that is not honoured is an error. What is found holds for the run: the processes share it.

    Attributes:
        endpoint: who is asked.
        role: which model, with which settings, and the form that params.yaml demands.
        numbers: made with `number` among its names.
        number: `form_number` of the model, its settings and forms.
        paid: called with the usage of a probe.
    """

    endpoint: Endpoint
    role: TeacherRole
    numbers: SharedNumbers
    number: str
    paid: Callable[[Usage], None]
    _probing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def response_format(self, kind: Kind) -> dict[str, Any] | None:
        """What to demand of an answer of this kind; None for plain text.

        JSON mode gives objects only, so a game, which is a list of turns, is then asked for as text.

        Raises:
            UserError: the form that params.yaml demands is not honoured.
        """
        async with self._probing:
            found = int(self.numbers[self.number])
            form = _FORMS[found - 1] if found else await self._find()
            self.numbers[self.number] = 1 + _FORMS.index(form)
        return None if form == "json_object" and kind != "script" else _response_format(form, kind)

    async def _find(self) -> _Form:
        demanded = self.role.structured_output
        for form in _FORMS[:-1]:
            if demanded not in ("auto", form):
                continue
            found = await self._problem(form)
            if found is None:
                return form
            fault, problem = found
            if demanded == form:
                message = (
                    f"teacher.structured_output: {form} is not honoured by model {self.role.model!r} ({problem}); "
                    "set it to auto or text."
                )
                raise UserError(
                    "form_not_honoured",
                    message,
                    key="teacher.structured_output",
                    form=form,
                    name=self.role.model,
                    fault=fault,
                )
            level = logging.INFO if self.role.is_simulated else logging.WARNING
            logger.log(level, "%s: %s is not used, %s", self.role.model, form, problem)
        return "text"

    async def _problem(self, form: _Form) -> tuple[str, str] | None:
        """Why a form is not honoured, in a word and in a sentence; None when it is."""
        question = packaged_text("agentrefine.synthesis", "prompts", "schemas", "probe.md")
        probe = Request(
            model=self.role.model,
            messages=[{"role": "user", "content": question.strip()}],
            temperature=self.role.temperature,
            max_tokens=PROBE_TOKENS,
            seed=0,
            response_format=_response_format(form, "probe"),
            extra_body=self.role.extra_body,  # as in the calls that follow
        )
        answer = await self.endpoint.ask(PROBE, probe)
        if answer.finish_reason == UNANSWERED:
            return "fails", "a call that demands it fails, and others are answered"
        if answer.finish_reason in NO_ANSWER:
            return "refused", f"it is refused ({answer.error})"
        self.paid(complete_usage(answer, probe).usage)
        text = without_thinking(answer.text)
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(text)
            if value == {"answer": "agentrefine"} or (form == "json_object" and isinstance(value, dict)):
                return None
        field = field_of_thoughts(answer.finish_reason)
        if field:
            return "no_content", f"the answer has no content, all of it stands in {field}"
        if answer.finish_reason == TRUNCATED and not text.strip():
            return "cut_off", f"the answer was cut at {PROBE_TOKENS} tokens before its thoughts had ended"
        return "ignored", f"it is accepted and ignored: the answer is {text[:60]!r}"


def form_number(number: int) -> str:
    """The name of the shared number that says which form was found; 0 before one was."""
    return f"form_{number}"


@cache
def _response_format(form: _Form, schema: str) -> dict[str, Any] | None:
    """A demand as OpenAI's API writes it; None for plain text."""
    if form != "json_schema":
        return {"type": form} if form == "json_object" else None
    text = packaged_text("agentrefine.synthesis", "prompts", "schemas", f"{schema}.json")
    return {"type": form, "json_schema": json.loads(text)}
