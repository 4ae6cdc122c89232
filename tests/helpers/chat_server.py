"""A small OpenAI-compatible server on 127.0.0.1 that can be told to answer badly."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aiohttp import web

Request = dict[str, Any]
Reply = web.StreamResponse | dict[str, Any]


class Trickle(NamedTuple):
    """A body that comes one byte after the other, for so many seconds."""

    seconds: float

    async def send(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            await response.write(b" ")
            await asyncio.sleep(0.05)
        await response.write(json.dumps(answer("at last")).encode())
        return response


class ChatServer:
    """Answers `POST /v1/chat/completions` by `reply(number, request)`, in a thread of its own.

    A reply is a response, a body as a dict (its `delay` in seconds is waited first), `Trickle`, "reset" or "hang".

    `routes` adds more of the API.

    `requests` holds the bodies, `times` when they came, `most_at_once` the highest number of requests in flight.
    """

    def __init__(self, reply: Callable[[int, Request], Any], routes: Sequence[web.RouteDef] = ()) -> None:
        self._reply = reply
        self._routes = routes
        self.requests: list[Request] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.most_at_once = 0
        self._now = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "ChatServer":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/v1/chat/completions", self._answer)
        application.router.add_routes(self._routes)
        runner = web.AppRunner(application, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        self._loop.run_forever()
        for task in (pending := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.times.append(time.monotonic())
        number = len(self.requests)
        self.keys.append(request.headers.get("Authorization", ""))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await asyncio.sleep(0.01)
            reply = self._reply(number, body)
            if reply == "reset":
                request.transport.abort()
                return web.Response()
            if reply == "hang":
                await asyncio.sleep(30)
            if isinstance(reply, Trickle):
                return await reply.send(request)
            if isinstance(reply, dict) and "delay" in reply:
                await asyncio.sleep(reply["delay"])
            return reply if isinstance(reply, web.StreamResponse) else web.json_response(reply)
        finally:
            self._now -= 1


def answer(text: str | None = "hello", finish_reason: str | None = "stop", tokens: int = 5) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens},
    }


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> web.Response:
    return web.Response(
        status=status,
        text=json.dumps({"error": {"message": message, "type": "x", "code": code}}),
        content_type="application/json",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
