"""How fast scripts and games are verified and answers journaled: `python perf/verification_and_journal.py`."""

import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agentrefine.params import VerificationParams
from agentrefine.script_checks import verify_script
from agentrefine.teacher.completion import Usage
from agentrefine.teacher.journal import Journal
from agentrefine.teacher.prompts import TRAJECTORY_SHOT, script_shot, trajectory_shot
from agentrefine.verification import verify_trajectory

PARAMS = VerificationParams(min_error_refine_turns=2, max_turns=60)
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
            await journal.keep(f"{in_flight} {index}", 4096, ANSWER, USAGE, "stop")

    started = time.perf_counter()
    await asyncio.gather(*(keep(index) for index in range(number)))
    return number / (time.perf_counter() - started)


def main() -> None:
    """Print one number a line."""
    script_name, turns_name = TRAJECTORY_SHOT
    script_text = json.dumps(script_shot(script_name)["script"])
    game_text = json.dumps(trajectory_shot(turns_name))
    script = verify_script(script_text).script
    if script is None:
        raise SystemExit("the example script is not sound")
    scripts = per_cpu_second(lambda: verify_script(script_text), 1000)
    games = per_cpu_second(lambda: verify_trajectory(script, game_text, PARAMS), 2000)
    print(f"scripts verified: {scripts:,.0f} a second and core")
    print(f"games verified: {games:,.0f} a second and core ({len(game_text):,} characters each)")
    with tempfile.TemporaryDirectory(dir=".") as folder, Journal(Path(folder) / "answers.sqlite") as journal:
        for in_flight, number in ((1, 200), (16, 3000), (128, 3000)):
            rate = asyncio.run(answers_kept_per_second(journal, in_flight, number))
            print(f"answers journaled, {in_flight} calls in flight: {rate:,.0f} a second")
        found = per_cpu_second(lambda: journal.find("16 7", 4096), 5000)
        print(f"answers found again: {found:,.0f} a second and core")


if __name__ == "__main__":
    main()
