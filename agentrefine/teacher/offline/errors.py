"""Answers in the form of OpenAI's API: JSON, and its error object."""

import orjson
from starlette.responses import Response


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
