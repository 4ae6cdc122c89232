"""The bare loop that `perf/synthesis.py` compares with: gather, a semaphore, AsyncOpenAI; nothing is kept or checked.

`python perf/bare_loop.py --base-url URL --calls FILE --transport aiohttp --loop uvloop`: each line of the file holds
`script_prompt` and `trajectory_prompt`, which are asked one after the other.
"""

import argparse
import asyncio
import json
from pathlib import Path

import uvloop
from openai import AsyncOpenAI, DefaultAioHttpClient


async def ask_all(base_url: str, calls: list[dict[str, str]], concurrency: int, transport: str) -> int:
    """Ask for everything, as many calls at once as `concurrency`; how many answers are not empty."""
    http_client = DefaultAioHttpClient() if transport == "aiohttp" else None
    slots = asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(base_url=base_url, api_key="none", http_client=http_client) as client:

        async def ask(prompt: str, max_tokens: int, seed: int) -> str:
            async with slots:
                completion = await client.chat.completions.create(
                    model="canned",
                    messages=[{"role": "user", "content": prompt}],
                    temperature=1.0,
                    max_tokens=max_tokens,
                    seed=seed,
                )
            return completion.choices[0].message.content or ""

        async def both(prompts: dict[str, str]) -> list[str]:
            script = await ask(prompts["script_prompt"], 4096, 0)
            return [script, await ask(prompts["trajectory_prompt"], 8192, 1_000_000)]

        answers = await asyncio.gather(*(both(prompts) for prompts in calls))
    return sum(bool(text) for pair in answers for text in pair)


def main() -> None:
    """Read the arguments, ask, and fail when an answer is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--calls", type=Path, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--transport", choices=("aiohttp", "httpx"), required=True)
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), required=True)
    arguments = parser.parse_args()
    with arguments.calls.open(encoding="utf-8") as handle:
        calls = [json.loads(line) for line in handle]
    work = ask_all(arguments.base_url, calls, arguments.concurrency, arguments.transport)
    answered = uvloop.run(work) if arguments.loop == "uvloop" else asyncio.run(work)
    if answered != 2 * len(calls):
        raise SystemExit(f"{answered} answers of {2 * len(calls)}")


if __name__ == "__main__":
    main()
