"""How a stage is a flow and a command: one sentence on bad input, an exit status, and the server that it reports to."""

import argparse
import inspect
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from agentrefine.errors import UserError
from flows.side_by_side import end_with_parent
from tasks.tracking.one_sentence import ONE_SENTENCE

if TYPE_CHECKING:
    from prefect import Flow

    from agentrefine.params import Params


SLOW_IMPORTS = {
    "base_model": ["agentrefine.base_model.base"],
    "quality_gate": ["agentrefine.tuning.models", "great_expectations"],
    "tuning": ["agentrefine.tuning.train"],
    "evaluation": ["agentrefine.tuning.models"],
}
"""What stages import as soon as they work and what takes seconds: a single stage imports it while the server starts."""


def stage_flow(name: str, work: "Callable[[Params], None]") -> "Flow[[], None]":
    """The flow of a stage without a key: it runs `work` on params.yaml, and the docstring of `work` describes it."""
    from prefect import flow

    from agentrefine.params import load_params
    from tasks.tracking.flow_runs import describe_stage

    @flow(name=name, flow_run_name=name, description=inspect.getdoc(work))
    def stage() -> None:
        from agentrefine.report.timing import RESULTS, timed  # imports numpy

        params = load_params()
        describe_stage(params, name)
        with timed(name, RESULTS[name]) if name in RESULTS else nullcontext():
            work(params)

    return stage


def run(body: "Flow[Any, Any]", description: str | None) -> None:
    """Run a stage's flow with the positional arguments of the command line: a required string for each parameter.

    Exits with status 1 and one sentence on standard error when the flow raises `UserError`.
    """
    values = parse(description, *body.parameters.properties)
    exit_with_sentence(lambda: run_stage(lambda: body, **values))


def parse(description: str | None, *arguments: str) -> dict[str, str]:
    """The values of the positional arguments."""
    parser = argparse.ArgumentParser(description=description)
    for argument in arguments:
        parser.add_argument(argument)
    return vars(parser.parse_args())


def run_stage(load: "Callable[[], Flow[Any, Any]]", **values: str) -> None:
    """Check what a stage needs, then run its flow on a Prefect server (`flows.server`).

    `load` gives the flow. It is called while the server starts: both take seconds.

    Raises:
        UserError: as `check_before` and the flow.
    """
    from flows.server import prefect_server  # imports Prefect

    end_with_parent()
    with prefect_server() as connect:
        from agentrefine.params import load_params
        from tasks.checks import check_before
        from tasks.params import write_resolved

        body = load()
        write_resolved()  # params.yaml may have been edited since DVC's stage `params` ran
        params = load_params()
        check_before(params, ["@".join([body.name, *values.values()])])
        if not {*params.evaluation.references, *params.evaluation.endpoints} & {*values.values()}:
            for module in SLOW_IMPORTS.get(body.name, ()):
                import_module(module)
        connect()
        body(**values)


class Terminated(KeyboardInterrupt):
    """SIGTERM: what stops on Ctrl-C stops for it too."""


def _terminate(*_: object) -> None:
    raise Terminated


def exit_with_sentence(body: Callable[[], object]) -> None:
    """Run `body`; end with status 1 if it returns False.

    Where it raises `UserError`, it ends with one sentence and status 1; where it is interrupted (Ctrl-C) or terminated
    (SIGTERM), with one sentence and 130 or 143.
    """
    ONE_SENTENCE.printed_at_end = True
    earlier = signal.signal(signal.SIGTERM, _terminate)  # Prefect calls it after a flow that was terminated, too
    try:
        succeeded = body() is not False
        sys.stdout.flush()
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # of `| head`; what is left in the buffer must not be written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except KeyboardInterrupt as stopped:
        kept = "what a teacher has answered and the episodes that have ended are kept"
        print(f"\nStopped. Run the same command again to resume: {kept}.", file=sys.stderr)
        sys.exit(143 if isinstance(stopped, Terminated) else 130)
    finally:
        signal.signal(signal.SIGTERM, earlier)
    if not succeeded:
        sys.exit(1)
