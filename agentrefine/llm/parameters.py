"""Which parameters of a call a model takes: learned once, from the first call that it refuses for one of them."""

import logging
import re
from typing import Any

from agentrefine.llm.completion import Request
from agentrefine.llm.failures import CallError

logger = logging.getLogger(__name__)

_OPTIONAL = ("top_p", "seed", "temperature")
"""Keys of ours that an answer can do without; the first is left out where a refusal names several."""

_LIMIT = "max_tokens"
_OTHER_LIMIT = "max_completion_tokens"
"""What OpenAI calls the limit of its reasoning models."""

_REFUSES = re.compile(
    r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|extra|forbidden"
    r"|only the default|deprecated|invalid|cannot|can't|not available|must be|may only|not implemented|not accept",
    re.IGNORECASE,
)
_OUT_OF_RANGE = re.compile(
    r"between|less than or equal|in the range|at most|<=|maximum|too (?:high|large)", re.IGNORECASE
)


class Parameters:
    """What a model takes of the parameters that this program sends.

    A limit that has another name gets it; a temperature, seed or `top_p` that the model refuses is left out, and so its
    own holds. What the user has set by `extra_body` is never changed.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._limit = _LIMIT
        self._left_out: set[str] = set()

    def body(self, request: Request) -> dict[str, Any]:
        """The JSON body of a call as the model takes it."""
        body = request.body()
        body[self._limit] = body.pop(_LIMIT)
        for name in self._left_out - request.extra_body.keys():
            body.pop(name, None)
        return body

    def learn(self, error: CallError, sent: dict[str, Any], request: Request) -> bool:
        """Whether a refusal is for a parameter, so that the call may be sent again without it.

        Args:
            error: the refusal.
            sent: the body that was refused.
            request: the call.
        """
        if error.status not in (400, 422) or error.is_too_long:
            return False
        if _LIMIT in sent and _OTHER_LIMIT in error.said:
            self._learned(_LIMIT, f"{_OTHER_LIMIT} takes the place of {_LIMIT}", error)
            self._limit = _OTHER_LIMIT
            return True
        name = _refused_name(error, [name for name in _OPTIONAL if name in sent and name not in request.extra_body])
        if name is None:
            return False
        if name == "temperature" and sent[name] > 0 and _OUT_OF_RANGE.search(error.said):
            return False  # another value is taken, and the user has to say which
        self._learned(name, f"{name} is left out of its calls, so the model's own holds", error)
        self._left_out.add(name)
        return True

    def _learned(self, name: str, consequence: str, error: CallError) -> None:
        if name not in self._left_out and not (name == _LIMIT and self._limit == _OTHER_LIMIT):
            logger.warning("%s: %s (%s)", self._model, consequence, error.said[:200])


def _refused_name(error: CallError, names: list[str]) -> str | None:
    """Which of the parameters a refusal names."""
    if error.parameter in names:
        return error.parameter
    if _REFUSES.search(error.said) is None:
        return None
    return next((name for name in names if re.search(rf"(?<![\w.]){name}(?!\w)|\bbody\.{name}\b", error.said)), None)
