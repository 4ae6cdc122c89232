"""How many requests a second the simulated teacher answers: `python perf/simulated_teacher_speed.py`."""

import asyncio
import json
import time
from concurrent.futures import ProcessPoolExecutor
from urllib.parse import urlsplit

from agentrefine.game.personas import Persona
from agentrefine.llm.completion import ChatMessage
from agentrefine.params import load_params
from agentrefine.simulation.answers import world_for
from agentrefine.simulation.process import simulated_teacher
from agentrefine.synthesis.prompts import script_messages, trajectory_messages
from agentrefine.worlds.layout import script_of

CLIENTS = 2
"""Processes that ask: one alone would be slower than the server."""
CONNECTIONS = 64
"""Of each client."""
SAMPLES = 600
"""Requests of a measurement, five times as many of the small ones."""


def script_request(sample: int, kind: str) -> bytes:
    """A request for the script of a persona of its own; `kind` is a word of the persona."""
    return _request(script_messages(_persona(sample, kind)), sample)


def game_request(sample: int, kind: str) -> bytes:
    """A request for the game of that script."""
    persona = _persona(sample, kind)
    return _request(trajectory_messages(persona, script_of(world_for(persona.text, sample))), sample)


def small_request(sample: int, kind: str) -> bytes:
    """A request that is refused politely: the cost of HTTP alone."""
    return _request([{"role": "user", "content": f"{kind} {sample}"}], sample)


def _persona(sample: int, kind: str) -> Persona:
    return Persona(id=f"p{sample}", text=f"{kind} person number {sample} who likes long walks")


def _request(messages: list[ChatMessage], sample: int) -> bytes:
    body = json.dumps({"model": "offline-teacher", "messages": messages, "seed": sample, "max_tokens": 8192}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _ask(port: int, requests: list[bytes]) -> None:
    """Send the requests over one connection, one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for request in requests:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200")
        await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.close()


async def _client(port: int, requests: list[bytes]) -> None:
    await asyncio.gather(*(_ask(port, requests[first::CONNECTIONS]) for first in range(CONNECTIONS)))


def client(port: int, requests: list[bytes]) -> None:
    """One client process."""
    asyncio.run(_client(port, requests))


def main() -> None:
    """Print one number a line."""
    params = load_params().teacher.offline.model_copy(update={"wire_faults": 0.0})
    with ProcessPoolExecutor(CLIENTS) as clients:
        for latency in ("0", "0.2"):
            for ask, times in ((small_request, 5), (script_request, 1), (game_request, 1)):
                requests = [ask(sample, "A") for sample in range(SAMPLES * times)]
                with simulated_teacher(params, "--latency", latency) as base_url:
                    rates = [_rate(clients, urlsplit(base_url).port or 0, requests) for _ in range(2)]
                answered = f"{rates[0]:,.0f} a second, {rates[1]:,.0f} when asked again"
                print(f"{ask.__name__}, latency {latency} s: {answered}")


def _rate(clients: ProcessPoolExecutor, port: int, requests: list[bytes]) -> float:
    """Answers a second, the clients' processes and connections being there already."""
    list(clients.map(client, [port] * CLIENTS, [[small_request(0, "warm")]] * CLIENTS))
    started = time.perf_counter()
    list(clients.map(client, [port] * CLIENTS, [requests[number::CLIENTS] for number in range(CLIENTS)]))
    return len(requests) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
