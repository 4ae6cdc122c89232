"""How Prefect's log shows what a user has to fix: the sentence, once and without the stack, which adds nothing.

Prefect logs an error in each task and flow that it passes through, and again with the state in which they end.
"""

import logging
import re

from agentrefine.errors import UserError

FLOW_RUNS = "prefect.flow_runs"
LOGGERS = (FLOW_RUNS, "prefect.task_runs", "prefect.engine")
FAILED = re.compile(r"^Finished in state Failed\(.*", re.DOTALL)


class OneSentence(logging.Filter):
    """Lets the innermost flow's record of a `UserError` pass as its sentence, and no other.

    Attributes:
        printed_at_end: the command prints the sentence itself, so that no record of it passes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.printed_at_end = False
        self._shown: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown; it is changed where it says too much."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, UserError):
            if self.printed_at_end or record.name != FLOW_RUNS or error is self._shown:
                return False
            self._shown = error
            record.msg, record.args = str(error), None
        elif isinstance(record.msg, str):
            record.msg = FAILED.sub("Finished in state Failed()", record.msg)
        if isinstance(error, UserError | KeyboardInterrupt):
            record.exc_info = record.exc_text = None
        return True


ONE_SENTENCE = OneSentence()
"""The filter of all of `LOGGERS` in this process."""


def filter_logs() -> None:
    """Put the filter on Prefect's loggers."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(ONE_SENTENCE)
