"""How a flow is run as a command: one sentence on bad input, an exit status, a progress bar where someone watches."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence

from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL

from agentrefine.errors import UserError
from agentrefine.proxies import check_proxy


def run(
    body: Callable[..., object], description: str | None, arguments: Sequence[str] = (), *, with_prefect: bool = True
) -> None:
    """Run a stage's flow with the positional arguments of the command line, each a required string.

    Without Prefect, `body` is no flow but a function.

    Exits with status 1 and one sentence on standard error when `body` raises `UserError`.
    """
    parser = argparse.ArgumentParser(description=description)
    for argument in arguments:
        parser.add_argument(argument)
    values = vars(parser.parse_args())

    def work() -> None:
        if with_prefect:
            start_prefect()
        body(**values)

    exit_with_sentence(work)


def start_prefect() -> None:
    """Start Prefect's temporary server, unless another is set, so that Ctrl-C does not end it.

    Otherwise the server is gone before the flow has told it of its end, and Prefect tries again for minutes.
    """
    if PREFECT_API_URL.value():
        check_proxy(PREFECT_API_URL.value(), "PREFECT_API_URL")
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits it
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def exit_with_sentence(body: Callable[[], object]) -> None:
    """Run `body`; end with one sentence and status 1 if it raises `UserError`, 130 if it is interrupted (Ctrl-C)."""
    logging.getLogger("prefect.flow_runs").addFilter(_no_traceback_of_user_errors)
    logging.getLogger("prefect.task_runs").addFilter(_no_traceback_of_user_errors)
    try:
        body()
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        kept = "what a teacher has answered and the episodes that have ended are kept"
        print(f"\nStopped. Run the same command again to go on: {kept}.", file=sys.stderr)
        sys.exit(130)


def _no_traceback_of_user_errors(record: logging.LogRecord) -> bool:
    """A user's mistake, or wish to stop, is told in one sentence; the stack says nothing that helps."""
    if record.exc_info and isinstance(record.exc_info[1], UserError | KeyboardInterrupt):
        record.exc_info = None
        record.exc_text = None
    return True
