"""How fast games are verified, and where the time goes: python -m perf.verification [trajectories]

The games are the simulated teacher's: 400 different ones with their scripts, each judged many times over (making 20,000
different ones takes longer than judging them). Processor time of one thread; the best of three rounds. The parts are
timed by running them alone on the same games, so no profiler slows them down:

- JSON: from text to plain values;
- keys and types: from plain values to turns;
- verification codes: the teacher's regular expressions on the actions;
- texts: characters, phrases and writing, regular expressions of ours on a whole game;
- other rules: the rest of the whole.
"""

import json
import sys
import time
from collections.abc import Callable
from itertools import cycle, islice
from typing import NamedTuple

from agentrefine.game.script import Script
from agentrefine.game.trajectory import DMTurn, PlayerTurn, steps
from agentrefine.verification.reading import list_elements, parse_turns
from agentrefine.verification.script_rules import verify_script
from agentrefine.verification.trajectory_rules import has_suspicious_texts, verify_trajectory
from tests.helpers.simulated_games import VERIFICATION, games

DISTINCT = 400
ROUNDS = 3


class Game(NamedTuple):
    """A game in all the forms that the parts begin with."""

    script: Script
    text: str
    turns: list[DMTurn | PlayerTurn]


def seconds(work: Callable[[Game], object], played: list[Game]) -> float:
    """Processor seconds that `work` takes on all games, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.process_time()
        for game in played:
            work(game)
        best = min(best, time.process_time() - started)
    return best


def made(count: int) -> list[Game]:
    """So many games, written as the teacher writes them; the same ones again after the first few hundred."""
    distinct = []
    for script, turns in games(DISTINCT):
        text = json.dumps(turns)
        distinct.append(Game(script, text, parse_turns(text).turns))
    return list(islice(cycle(distinct), count))


def read_json(game: Game) -> None:
    """The JSON alone."""
    list(list_elements(game.text))


def read_turns(game: Game) -> None:
    """JSON, keys and types."""
    parse_turns(game.text)


def match_codes(game: Game) -> None:
    """The verification codes alone, on the actions that are filled with valid values."""
    for step in steps(game.turns):
        for command in game.script.actions.commands:
            if command.is_filled_as(step.player.action):
                command.code.fullmatch(step.player.action)


def compare_values(game: Game) -> None:
    """What `match_codes` does besides, so that it can be taken off."""
    for step in steps(game.turns):
        for command in game.script.actions.commands:
            command.is_filled_as(step.player.action)


def check_texts(game: Game) -> None:
    """The rules for texts alone."""
    has_suspicious_texts(game.script, game.turns)


def verify(game: Game) -> None:
    """All of it."""
    if verify_trajectory(game.script, game.text, VERIFICATION).problem is not None:
        raise SystemExit("a game of the simulated teacher is not sound")


def main() -> None:
    """Print the rate and the shares."""
    played = made(int(sys.argv[1]) if len(sys.argv) == 2 else 20_000)
    whole = seconds(verify, played)
    text_checks = seconds(check_texts, played)
    as_json = seconds(read_json, played)
    parts = {
        "JSON": as_json,
        "keys and types": seconds(read_turns, played) - as_json,
        "verification codes": seconds(match_codes, played) - seconds(compare_values, played),
        "texts": text_checks,
    }
    parts["other rules"] = whole - sum(parts.values())
    characters = sum(len(game.text) for game in played) / len(played)
    turns = sum(len(game.turns) for game in played) / len(played)
    print(f"{len(played)} trajectories, {turns:.0f} turns and {characters:,.0f} characters each on average")
    print(f"verified: {len(played) / whole:,.0f} a second and core")
    for name, took in parts.items():
        print(f"  {name}: {took / whole:.0%}")
    scripts = [game._replace(text=game.script.model_dump_json()) for game in played[:DISTINCT]]
    print(f"scripts verified: {len(scripts) / seconds(lambda game: verify_script(game.text), scripts):,.0f} a second")


if __name__ == "__main__":
    main()
