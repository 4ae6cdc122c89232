"""How a stage is a flow and a command: one sentence on bad input, an exit status, and the server that it reports to."""

import argparse
import inspect
import logging
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from agentrefine.errors import UserError
from flows.side_by_side import end_with_parent

if TYPE_CHECKING:
    from prefect import Flow

    from agentrefine.params import Params


def stage_flow(name: str, work: "Callable[[Params], None]") -> "Flow[[], None]":
    """The flow of a stage without a key: it runs `work` on params.yaml, and the docstring of `work` describes it."""
    from prefect import flow

    from agentrefine.params import load_params

    @flow(name=name, flow_run_name=name, description=inspect.getdoc(work))
    def stage() -> None:
        from agentrefine.report.timing import RESULTS, timed  # imports numpy

        with timed(name, RESULTS[name]) if name in RESULTS else nullcontext():
            work(load_params())

    return stage


def run(body: "Flow[Any, Any]", description: str | None) -> None:
    """Run a stage's flow with the positional arguments of the command line: a required string for each parameter.

    Exits with status 1 and one sentence on standard error when the flow raises `UserError`.
    """
    values = parse(description, *body.parameters.properties)
    exit_with_sentence(lambda: run_stage(body, **values))


def parse(description: str | None, *arguments: str) -> dict[str, str]:
    """The values of the positional arguments."""
    parser = argparse.ArgumentParser(description=description)
    for argument in arguments:
        parser.add_argument(argument)
    return vars(parser.parse_args())


def run_stage(body: "Flow[Any, Any]", **values: str) -> None:
    """Check what a stage needs, then run its flow on the configured Prefect server or the temporary one.

    Raises:
        UserError: as `check_before` and the flow.
    """
    from agentrefine.params import load_params
    from flows.server import prefect_server  # imports Prefect
    from tasks.checks import check_before
    from tasks.params import write_resolved

    end_with_parent()
    write_resolved()  # params.yaml may have been edited since DVC's stage `params` ran
    check_before(load_params(), ["@".join([body.name, *values.values()])])
    with prefect_server():
        body(**values)


def exit_with_sentence(body: Callable[[], object]) -> None:
    """Run `body`; end with status 1 if it returns False.

    Where it raises `UserError`, it ends with one sentence and status 1; where it is interrupted (Ctrl-C), with 130.
    """
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_no_traceback_of_user_errors)
    try:
        succeeded = body() is not False
        sys.stdout.flush()
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # of `| head`; what is left in the buffer must not be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt:
        kept = "what a teacher has answered and the episodes that have ended are kept"
        print(f"\nStopped. Run the same command again to resume: {kept}.", file=sys.stderr)
        sys.exit(130)
    if not succeeded:
        sys.exit(1)


def _no_traceback_of_user_errors(record: logging.LogRecord) -> bool:
    """A user's mistake, or wish to stop, takes one sentence; the stack adds nothing that helps."""
    if record.exc_info and isinstance(record.exc_info[1], UserError | KeyboardInterrupt):
        record.exc_info = None
        record.exc_text = None
    return True
