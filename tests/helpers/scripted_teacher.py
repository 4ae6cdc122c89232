"""A teacher that says what it is told to say, in order, and remembers what it was asked."""

import asyncio
from collections.abc import Iterable
from typing import Any

from agentrefine.llm.completion import UNANSWERED, Answer, ChatMessage, Kind, Usage
from agentrefine.params import Params, load_params
from agentrefine.params.teacher import Role
from tests.helpers.paths import ROOT

PARAMS = load_params(ROOT / "params.yaml")


def params(**changes: Any) -> Params:
    """params.yaml with other values, by dotted names with two underscores: `repair__call_budget=3`."""
    values = PARAMS.model_dump()
    for name, value in changes.items():
        section, key = name.split("__")
        values[section][key] = value
    return Params.model_validate(values)


class ScriptedTeacher:
    """Answers with the given texts, one a call; for many samples at once, with those of the call's persona.

    None is a call that the endpoint does not answer.
    """

    def __init__(self, *texts: str | None, by_persona: dict[str, Iterable[str]] | None = None) -> None:
        self._texts = iter(texts)
        self._by_persona = {name: iter(said) for name, said in (by_persona or {}).items()}
        self.prompts: list[str] = []
        self.draws: list[int] = []
        self.asked: list[tuple[Kind, Role]] = []

    async def complete(self, messages: list[ChatMessage], *, kind: Kind, role: Role, sample: int) -> Answer:
        await asyncio.sleep(0)
        prompt = messages[-1]["content"]
        self.prompts.append(prompt)
        self.draws.append(sample)
        self.asked.append((kind, role))
        text = next(next((said for name, said in self._by_persona.items() if name in prompt), self._texts))
        return Answer(
            id=f"answer-{len(self.prompts)}",
            model="scripted",
            text=text or "",
            usage=Usage(prompt_tokens=10, completion_tokens=5),
            finish_reason="stop" if text is not None else UNANSWERED,
        )
