"""Reads the prompts of `agentrefine.synthesis.prompts` back: what is asked for, and from where a game goes on."""

import hashlib
import json
import re
from functools import cache, lru_cache
from random import Random
from typing import Any, NamedTuple

import orjson
import yaml
from pydantic import TypeAdapter
from starlette.responses import Response

from agentrefine.errors import UserError
from agentrefine.files import packaged_text
from agentrefine.game.trajectory import DMTurn, PlayerTurn, Turn
from agentrefine.llm.completion import SAMPLES_PER_CALL
from agentrefine.worlds.catalogue import families, family, theme, themes
from agentrefine.worlds.layout import EVALUATION_SEEDS, World, world_from_id


class ApiError(Exception):
    """A request is refused.

    Attributes:
        status: the HTTP status.
        body: the answer, as OpenAI writes it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Describe the refusal.

        Args:
            status: 4xx for what the client can mend, else 5xx.
            message: what is wrong and what to do.
            param: the request's key that is wrong.
            code: a short name that programs read.
            headers: HTTP headers of the answer.
        """
        super().__init__(message)
        self.status = status
        self.body: dict[str, object] = {
            "error": {"message": message, "type": _kind(status), "param": param, "code": code}
        }
        self._headers = headers

    def response(self) -> Response:
        """The HTTP answer."""
        return json_response(orjson.dumps(self.body), self.status, self._headers)


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An HTTP answer of JSON text."""
    return Response(body, status, headers, media_type="application/json")


def _kind(status: int) -> str:
    if status == 429:
        return "rate_limit_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def share(*parts: str) -> float:
    """A number in [0, 1) drawn from the parts."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def generator(*parts: str) -> Random:
    """A random generator seeded by the parts."""
    digest = hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).digest()
    return Random(int.from_bytes(digest[:8], "big"))


_WORD = re.compile(r"\w+")


def world_for(persona: str, sample: int | None) -> World:
    """The world of a persona's sample, the same one in all of its calls. Samples in a row get different families.

    Args:
        persona: the sentence.
        sample: the request's `seed`, which holds the sample and the call (`first_answers.ask`).
    """
    number = (sample or 0) % SAMPLES_PER_CALL
    names = [definition.name for definition in families("train")]
    drawn = names[(int(share("family", persona) * len(names)) + number) % len(names)]
    seed = int(share("layout", persona, str(number)) * EVALUATION_SEEDS)
    return world_of(f"{drawn}.{_theme(persona, number)}.{seed}")


@lru_cache(maxsize=2048)
def world_of(world_id: str) -> World:
    """The world of an id; those asked for lately are kept, since drawing one takes a while.

    Raises:
        UserError: the text is not the id of a world.
    """
    return world_from_id(world_id)


def is_for_teaching(world: World) -> bool:
    """Whether a world is none of those that models are evaluated on."""
    split = (family(world.family).split, theme(world.theme).split)
    return split == ("train", "train") and 0 <= world.seed < EVALUATION_SEEDS


def _theme(persona: str, number: int) -> str:
    called_for = theme_words()
    for word in _WORD.findall(persona.lower()):
        if word in called_for:
            return called_for[word]
    names = [definition.name for definition in themes("train")]
    return names[int(share("theme", persona, str(number)) * len(names))]


@cache
def theme_words() -> dict[str, str]:
    """For each word that calls for a theme, the theme."""
    text = packaged_text("agentrefine.simulation", "themes.yaml")
    return {word: name for name, words in yaml.safe_load(text).items() for word in words}


PERSONA_LINE = re.compile(r"\nPersona: ([^\n]+)\s*\Z")
SCRIPT_BLOCK = re.compile(r"\n# Script\n\n```json\n(.+)\n```")
TURNS_BLOCK = re.compile(r"\n# Turns so far\n\n```json\n(\[.*?\])\n```", re.DOTALL)

_TURNS: TypeAdapter[list[DMTurn | PlayerTurn]] = TypeAdapter(list[Turn])


class ScriptRequest(NamedTuple):
    """A script is wanted.

    Attributes:
        persona: who it is for.
    """

    persona: str


class GameRequest(NamedTuple):
    """A game is wanted, or the rest of one.

    Attributes:
        world: the world that the script describes.
        environment: the script's hidden environment.
        kept: the turns that stand already; empty for a game from the start.
    """

    world: World
    environment: dict[str, Any]
    kept: list[DMTurn | PlayerTurn]


def read_request(prompt: str) -> ScriptRequest | GameRequest | None:
    """What a prompt asks for, or None when it is no prompt of ours or its script is no world of ours."""
    # The last heading counts: the blocks before it are examples.
    script = _last(SCRIPT_BLOCK, prompt)
    if script is not None:
        return _game_request(script, _last(TURNS_BLOCK, prompt) or "[]")
    persona = PERSONA_LINE.search(prompt)
    if persona is not None and '"available_actions"' in prompt:
        return ScriptRequest(persona.group(1).strip())
    return None


def _game_request(script: str, turns: str) -> GameRequest | None:
    try:
        environment = json.loads(script)["environment"]
        world = world_of(environment["world"])
        kept = _TURNS.validate_json(turns)
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        return None
    return GameRequest(world, environment, kept) if is_for_teaching(world) else None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = None
    for match in pattern.finditer(text):
        found = match.group(1)
    return found
