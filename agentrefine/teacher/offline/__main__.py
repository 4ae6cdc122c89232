"""Run the offline teacher by hand: `python -m agentrefine.teacher.offline --port 8123` prints its base URL.

It answers well unless told otherwise: `--params '{"script_faults": 0.1, "trajectory_faults": 0.3, "wire_faults": 0.01,
"mistakes": [2, 3]}'`.
"""

import argparse
import asyncio
import socket
import sys

import uvicorn
from pydantic import ValidationError

from agentrefine.files import first_problem
from agentrefine.params import OfflineTeacher
from agentrefine.teacher.offline.server import application, stop_with_parent

FAULTLESS = '{"script_faults": 0.0, "trajectory_faults": 0.0, "wire_faults": 0.0, "mistakes": [2, 3]}'


def main() -> None:
    """Read the arguments and serve until SIGTERM, SIGINT or the end of the parent process."""
    parser = argparse.ArgumentParser(prog="python -m agentrefine.teacher.offline", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--params", default=FAULTLESS, help="teacher.offline of params.yaml, as JSON")
    parser.add_argument("--parent", type=int, default=None, help="end when this parent process has ended")
    arguments = parser.parse_args()
    try:
        params = OfflineTeacher.model_validate_json(arguments.params)
    except ValidationError as error:
        sys.exit(f"--params: {first_problem(error)}")
    try:
        listening = socket.create_server(("127.0.0.1", arguments.port))
    except OSError as error:
        sys.exit(f"Port {arguments.port} of 127.0.0.1 cannot be used ({error.strerror}); choose another --port.")
    asyncio.run(_serve(params, listening, arguments.parent))


async def _serve(params: OfflineTeacher, listening: socket.socket, parent: int | None) -> None:
    config = uvicorn.Config(
        application(params), log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    port = listening.getsockname()[1]
    # The socket listens already: a client that connects now waits in its queue until the loop runs.
    sys.stdout.write(f"http://127.0.0.1:{port}/v1\n")
    sys.stdout.flush()
    watch = None if parent is None else asyncio.create_task(stop_with_parent(server, parent))
    await server.serve(sockets=[listening])
    if watch is not None:
        watch.cancel()


if __name__ == "__main__":
    main()
