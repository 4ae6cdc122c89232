"""How a flow is run as a command: one sentence on bad input, an exit status, a progress bar where someone watches."""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from prefect import Flow

from agentrefine.errors import UserError
from agentrefine.params import load_params
from flows.server import prefect_server
from flows.side_by_side import end_with_parent
from tasks.checks import check_before


def run(body: Flow[Any, Any], description: str | None, arguments: Sequence[str] = ()) -> None:
    """Run a stage's flow with the positional arguments of the command line, each a required string.

    Exits with status 1 and one sentence on standard error when the flow raises `UserError`.
    """
    values = parse(description, arguments)
    end_with_parent()

    def checked() -> None:
        check_before(load_params(), ["@".join([body.name, *values.values()])])
        with prefect_server():
            body(**values)

    exit_with_sentence(checked)


def parse(description: str | None, arguments: Sequence[str]) -> dict[str, str]:
    """The values of the positional arguments."""
    parser = argparse.ArgumentParser(description=description)
    for argument in arguments:
        parser.add_argument(argument)
    return vars(parser.parse_args())


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
