"""Faults of the wire: answers that fail or get lost on their way, drawn from the request and its attempt."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn._types import ASGIReceiveCallable, ASGISendCallable
from uvicorn._types import Scope as UvicornScope
from uvicorn.protocols.http.h11_impl import H11Protocol

from agentrefine.params.teacher import WireFaultKind
from agentrefine.simulation.answers import uniform_of
from agentrefine.simulation.chat import ApiError

HANG_SECONDS = 30.0
"""Seconds for which a connection hangs where nothing else is asked for."""
SLOW_BODY_SECONDS = 1.0
"""Seconds that the body of a slow answer takes."""
SLOW_BODY_PIECES = 10
"""The pieces that the body of a slow answer is sent in."""
CONNECTION = "agentrefine.connection"
"""The ASGI extension that holds the connection's transport."""
REFUSED: dict[WireFaultKind, ApiError] = {
    "too_many_requests": ApiError(
        429,
        "Too many requests; try again after the given time.",
        code="rate_limit_exceeded",
        headers={"Retry-After": "0.05"},
    ),
    "server_error": ApiError(500, "The server had an error while processing your request."),
    "overloaded": ApiError(503, "The server is overloaded; try again later."),
}
"""The faults that are answers of the API; the others are faults of the connection."""

WITHOUT_ANSWER: frozenset[WireFaultKind | None] = frozenset([*REFUSED, "reset", "hang", "wrong_content_type"])
"""The faults that send nothing of the good answer."""
HTML_PAGE = "<html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>"


def drawn_fault(rate: float, kinds: Sequence[WireFaultKind], key: str, attempt: int) -> WireFaultKind | None:
    """The fault of one of `kinds` that a share `rate` of all attempts meets, if this one does: each is a new draw."""
    if not kinds or uniform_of("wire", key, str(attempt)) >= rate:
        return None
    return kinds[int(uniform_of("wire kind", key, str(attempt)) * len(kinds))]


def faulty(fault: WireFaultKind, good: bytes, hang_seconds: float) -> ASGIApp:
    """What goes wrong, ready to be sent; `good` is the body of the good answer."""
    if fault in REFUSED:
        return REFUSED[fault].response()
    if fault == "wrong_content_type":
        return Response(HTML_PAGE, media_type="text/html")
    if fault == "hang":
        return partial(_hang, hang_seconds)
    if fault == "reset":
        return _reset
    answer = Response(good, media_type="application/json")
    return partial(_slow_body if fault == "slow_body" else _truncated_body, answer)


class WireProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, with the connection in every request's scope: no ASGI message breaks a connection."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  (uvicorn's own)
        super().__init__(*arguments, **options)
        application = self.app

        async def with_connection(scope: UvicornScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            assert scope["type"] == "http"
            scope["extensions"] = {CONNECTION: {"transport": self.transport}}
            await application(scope, receive, send)

        self.app = with_connection


async def _reset(scope: Scope, receive: Receive, _: Send) -> None:
    """The connection is reset (TCP RST) without an answer."""
    transport = _transport(scope)
    # Closing a socket that lingers for zero seconds resets the connection instead of ending it.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await _disconnected(receive)


async def _hang(seconds: float, scope: Scope, receive: Receive, _: Send) -> None:
    """No answer; the connection is closed when the client has waited for long, unless it closes it before."""
    try:
        async with asyncio.timeout(seconds):
            await _disconnected(receive)
    except TimeoutError:
        _transport(scope).close()
        await _disconnected(receive)


async def _slow_body(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """The right body, piece by piece."""
    await send({"type": "http.response.start", "status": 200, "headers": answer.raw_headers})
    size = len(answer.body) // SLOW_BODY_PIECES + 1
    for start in range(0, len(answer.body), size):
        await asyncio.sleep(SLOW_BODY_SECONDS / SLOW_BODY_PIECES)
        more = start + size < len(answer.body)
        await send({"type": "http.response.body", "body": answer.body[start : start + size], "more_body": more})


async def _truncated_body(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """The headers of the right answer and half of its body; then the connection is closed."""
    await send({"type": "http.response.start", "status": 200, "headers": answer.raw_headers})
    await send({"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True})
    _transport(scope).close()
    await _disconnected(receive)


def _transport(scope: Scope) -> asyncio.Transport:
    transport: asyncio.Transport = scope["extensions"][CONNECTION]["transport"]
    return transport


async def _disconnected(receive: Receive) -> None:
    """Wait until the connection is closed; uvicorn takes an answer that ends earlier for a bug."""
    while (await receive())["type"] != "http.disconnect":
        pass
