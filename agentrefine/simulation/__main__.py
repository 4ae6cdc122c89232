"""Run the simulated teacher by hand: `python -m agentrefine.simulation --port 8123` prints its base URL.

It answers well unless the parameters say otherwise, such as `--params '{"script_faults": 0.1, "wire_faults": 0.01,
"wire_fault_kinds": ["reset"], "mistakes": [2, 3]}'`; what is left out stays as it is.
"""

import argparse
import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import TypeAdapter, ValidationError

from agentrefine.errors import UserError
from agentrefine.files import first_problem, problem_code, problem_key
from agentrefine.params.teacher import SimulatedTeacher
from agentrefine.simulation.batches import WINDOW_SECONDS
from agentrefine.simulation.server import Server, Settings
from agentrefine.simulation.wire import HANG_SECONDS, WireProtocol

FAULTLESS = SimulatedTeacher(script_faults=0.0, trajectory_faults=0.0, wire_faults=0.0)


def main() -> None:
    """Read the arguments and serve until SIGTERM, SIGINT or the end of the parent process."""
    parser = argparse.ArgumentParser(prog="python -m agentrefine.simulation", description=__doc__)
    add = parser.add_argument
    add("--port", type=int, default=0, help="0: any free port")
    add("--params", default="{}", help="keys of teacher.offline in params.yaml, as JSON")
    add("--parent", type=int, default=None, help="end when this parent process has ended")
    add("--latency", type=_seconds, default=0.0, metavar="SECONDS", help="each chat completion waits that long")
    add("--log", type=Path, default=None, metavar="FILE", help="append one JSON line for each chat request")
    add("--structured", action="store_true", help="accept response_format json_object and json_schema")
    add("--hang-seconds", type=_seconds, default=HANG_SECONDS, metavar="SECONDS", help="how long a connection hangs")
    add("--batch-seconds", type=_seconds, default=0.0, metavar="SECONDS", help="a batch is in progress that long")
    add("--batch-window-seconds", type=_seconds, default=WINDOW_SECONDS, metavar="SECONDS", help="then a batch expires")
    add("--state", type=Path, default=None, metavar="DIR", help="keep files and batches there, to resume them")
    arguments = parser.parse_args()
    settings = Settings(**{name: getattr(arguments, name) for name in Settings._fields})
    try:
        server = Server(_params(arguments.params), settings)
        listening = socket.create_server(("127.0.0.1", arguments.port))
    except (OSError, OverflowError) as error:
        sys.exit(f"Port {arguments.port} of 127.0.0.1 cannot be used ({error}); choose another --port.")
    except UserError as error:
        sys.exit(str(error))
    asyncio.run(_serve(server, listening, arguments.parent))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")
    return seconds


def _params(text: str) -> SimulatedTeacher:
    try:
        given = TypeAdapter(dict[str, Any]).validate_json(text)
        return SimulatedTeacher.model_validate_json(json.dumps(FAULTLESS.model_dump() | given))
    except ValidationError as error:
        message = f"--params: {first_problem(error)}"
        raise UserError(problem_code(error), message, option="--params", key=problem_key(error)) from error


async def _serve(teacher: Server, listening: socket.socket, parent: int | None) -> None:
    config = uvicorn.Config(
        teacher.application(),
        http=WireProtocol,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    teacher.batches.resume()
    # The socket listens already: a client that connects now waits in its queue until the loop runs.
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}/v1\n")
    sys.stdout.flush()
    watch = asyncio.create_task(_stop_with_parent(server, parent))
    await server.serve(sockets=[listening])
    watch.cancel()


async def _stop_with_parent(server: uvicorn.Server, parent: int | None) -> None:
    """End the server once the process that started it has ended: it then belongs to another parent."""
    while parent is None or os.getppid() == parent:
        await asyncio.sleep(0.5)
    server.should_exit = True


if __name__ == "__main__":
    main()
