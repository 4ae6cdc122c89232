"""Which parameters of a call a model takes: learned once, from the first call that it refuses for one of them."""

import logging
import re
from typing import Any

from agentrefine.llm.completion import Request
from agentrefine.llm.failures import CallError
from agentrefine.llm.quirks import LIMIT, OPTIONAL, OTHER_LIMIT, OUT_OF_RANGE, REFUSES

logger = logging.getLogger(__name__)


class Parameters:
    """What a model takes of the parameters that this program sends.

    A limit that has another name gets it; a temperature, seed or `top_p` that the model refuses is left out, and so its
    own holds. What the user has set by `extra_body` is never changed.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._limit = LIMIT
        self._left_out: set[str] = set()

    def body(self, request: Request) -> dict[str, Any]:
        """The JSON body of a call as the model takes it."""
        body = request.body()
        body[self._limit] = body.pop(LIMIT)
        for name in self._left_out - request.extra_body.keys():
            body.pop(name, None)
        return body

    def learn(self, error: CallError, sent: dict[str, Any], request: Request) -> bool:
        """Whether a refusal of the body `sent` is for a parameter, so that the call may be sent again without it."""
        if error.status not in (400, 422) or error.is_too_long:
            return False
        if LIMIT in sent and OTHER_LIMIT in error.said:
            if self._limit == LIMIT:
                self._warn(f"{OTHER_LIMIT} takes the place of {LIMIT}", error)
            self._limit = OTHER_LIMIT
            return True
        name = _refused_name(error, [name for name in OPTIONAL if name in sent and name not in request.extra_body])
        if name is None:
            return False
        if name == "temperature" and sent[name] > 0 and OUT_OF_RANGE.search(error.said):
            return False  # another value is taken, and the user has to say which
        if name not in self._left_out:
            self._warn(f"{name} is left out of its calls, so the model's own holds", error)
        self._left_out.add(name)
        return True

    def _warn(self, consequence: str, error: CallError) -> None:
        logger.warning("%s: %s (%s)", self._model, consequence, error.said[:200])


def _refused_name(error: CallError, names: list[str]) -> str | None:
    """Which of the parameters a refusal names."""
    if error.parameter in names:
        return error.parameter
    if REFUSES.search(error.said) is None:
        return None
    return next((name for name in names if re.search(rf"(?<![\w.]){name}(?!\w)|\bbody\.{name}\b", error.said)), None)
