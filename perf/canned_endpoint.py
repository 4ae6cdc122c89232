"""An OpenAI-compatible endpoint that costs next to nothing: canned scripts and games, each after a set time.

`python perf/canned_endpoint.py --latency 0.2` prints its base URL and serves until it is ended. The simulated teacher
draws a world for every answer, which takes longer than a client needs to ask; here the answer is picked from the pool
of examples by a hash of the prompt, so that the client is what is measured. `GET /v1/counts` reports what was asked.
"""

import argparse
import asyncio
import sys
import time
import zlib

import orjson
import uvloop
from aiohttp import web

from agentrefine.synthesis.prompts import script_pool, trajectory_pool, turns_json

SCRIPTS = [shot.script.model_dump_json() for shot in script_pool().values()]
GAMES = [turns_json(shot.turns) for shot in trajectory_pool().values()]
REFUSED = {"error": {"message": "response_format: plain text only", "type": "invalid_request_error", "code": None}}


def canned_answer(prompt: str) -> str:
    """The script or the game that answers a prompt of synthesis.

    Each prompt has a script of its own, with regular expressions of its own: nothing is found in a cache.
    """
    number = zlib.crc32(prompt.encode())
    if prompt.rpartition("\n")[2].startswith("Persona: "):
        script = SCRIPTS[number % len(SCRIPTS)].replace('"goal":"', f'"goal":"({number}) ')
        return script.replace('"verification_code":"', f'"verification_code":"{number}|')
    return GAMES[number % len(GAMES)]


class CannedEndpoint:
    """Answers and counts. Only answered calls are counted, so that a client's probes of the endpoint are not."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._answered = 0
        self._in_flight = 0
        self._most_in_flight = 0
        self._first_arrival = 0.0
        self._last_answer = 0.0
        self._cpu_before = 0.0

    def application(self) -> web.Application:
        """The routes."""
        application = web.Application(client_max_size=2**24)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_get("/v1/counts", self._counts)
        return application

    async def _chat(self, request: web.Request) -> web.Response:
        arrival = time.time()
        asked = orjson.loads(await request.read())
        if asked.get("response_format", {"type": "text"})["type"] != "text":
            return web.json_response(REFUSED, status=400)
        if not self._first_arrival:
            self._first_arrival = arrival
            self._cpu_before = time.process_time()
        self._in_flight += 1
        self._most_in_flight = max(self._most_in_flight, self._in_flight)
        text = canned_answer(asked["messages"][-1]["content"])
        body = orjson.dumps(_completion(asked["model"], text))
        await asyncio.sleep(self._latency)
        self._in_flight -= 1
        self._answered += 1
        self._last_answer = time.time()
        return web.Response(body=body, content_type="application/json")

    async def _counts(self, _: web.Request) -> web.Response:
        counts = {
            "answered": self._answered,
            "most_in_flight": self._most_in_flight,
            "first_arrival": self._first_arrival,
            "last_answer": self._last_answer,
            "cpu_seconds": time.process_time() - self._cpu_before,
        }
        return web.json_response(counts)


def _completion(model: str, text: str) -> dict[str, object]:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "id": "chatcmpl-canned",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2700, "completion_tokens": len(text) // 4, "total_tokens": 2700 + len(text) // 4},
    }


async def _serve(latency: float) -> None:
    runner = web.AppRunner(CannedEndpoint(latency).application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}/v1\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.2, metavar="SECONDS", help="each answer waits that long")
    uvloop.run(_serve(parser.parse_args().latency))


if __name__ == "__main__":
    main()
