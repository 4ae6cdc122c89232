"""How fast answers are journaled and found again: python -m perf.journal"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agentrefine.llm.completion import Answer, Usage
from agentrefine.llm.journal import Journal

ANSWER = "x" * 6000
USAGE = Usage(prompt_tokens=1500, completion_tokens=1500)


def per_cpu_second(work: Callable[[], object], times: int) -> float:
    """How often `work` is done in one second of processor time."""
    started = time.process_time()
    for _ in range(times):
        work()
    return times / (time.process_time() - started)


async def answers_kept_per_second(journal: Journal, in_flight: int, number: int) -> float:
    """Answers on disk per second of wall time with so many calls in flight."""
    slots = asyncio.Semaphore(in_flight)

    async def keep(index: int) -> None:
        async with slots:
            await journal.keep(f"{in_flight} {index}", 4096, Answer(ANSWER, USAGE, "stop"))

    started = time.perf_counter()
    await asyncio.gather(*(keep(index) for index in range(number)))
    return number / (time.perf_counter() - started)


def main() -> None:
    """Print one number a line."""
    with tempfile.TemporaryDirectory(dir=".") as folder, Journal(Path(folder) / "answers.sqlite") as journal:
        for in_flight, number in ((1, 200), (16, 3000), (128, 3000)):
            rate = asyncio.run(answers_kept_per_second(journal, in_flight, number))
            print(f"answers journaled, {in_flight} calls in flight: {rate:,.0f} a second")
        found = per_cpu_second(lambda: journal.find("16 7", 4096), 5000)
        print(f"answers found again: {found:,.0f} a second and core")


if __name__ == "__main__":
    main()
