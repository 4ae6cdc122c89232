"""The money of a run: what calls have cost, and a limit that no call may take it beyond."""

import time

from agentrefine.errors import UserError
from agentrefine.llm.shared_numbers import SharedNumbers
from agentrefine.llm.throttle import sleep_unless_stopped

SPENT = "spent"
"""The shared number of US dollars that calls have cost."""
SPENDING_NUMBERS = (SPENT, "reserved", "settled_at")
_SECONDS_BETWEEN_LOOKS = 0.2


class BudgetSpentError(UserError):
    """The next call could cost more than is left of `max_cost`."""


class Spending:
    """What the calls of all processes have cost, in US dollars, kept below a limit.

    Before a call goes out, the most that it can cost is reserved; its real cost takes that place when it is answered.
    So the limit is not passed as long as the endpoint bills no more than it counts, or than is estimated where it does
    not count, and bills no call that timed out or broke.
    Answers from the journal count too: the limit is one for the data set, and a rerun does not begin at zero.
    """

    def __init__(
        self, numbers: SharedNumbers, max_cost: float | None, patience: float, section: str = "teacher"
    ) -> None:
        """Join the other processes.

        Args:
            numbers: made with `SPENDING_NUMBERS` among its names.
            max_cost: the limit; None for no limit.
            patience: seconds in which some call ends as long as any is in flight.
            section: of params.yaml, whose `max_cost` it is.
        """
        self._numbers = numbers
        self._max_cost = max_cost
        self._patience = patience
        self._setting = f"{section}.max_cost"

    async def reserve(self, most: float) -> None:
        """Wait until `most` is free, which calls in flight may set free.

        Raises:
            BudgetSpentError: it is not, and no call is in flight any more; or none has ended for so long that what is
                reserved must be that of a process that died.
            StoppedError: the run is ending.
        """
        while not self._reserved(most):
            await sleep_unless_stopped(self._numbers, _SECONDS_BETWEEN_LOOKS)

    def settle(self, reserved: float, cost: float) -> None:
        """A call is over: `cost` instead of the `reserved` most."""
        with self._numbers.locked() as numbers:
            numbers["reserved"] = max(0.0, numbers["reserved"] - reserved)
            numbers["spent"] += cost
            numbers["settled_at"] = time.monotonic()

    def _reserved(self, most: float) -> bool:
        with self._numbers.locked() as numbers:
            spent, reserved = numbers["spent"], numbers["reserved"]
            if self._max_cost is None or spent + reserved + most <= self._max_cost:
                numbers["reserved"] = reserved + most
                return True
            idle = time.monotonic() - (numbers["settled_at"] or time.monotonic())
        if reserved > 1e-9 and idle < self._patience:  # what rounding leaves is no call
            return False
        raise BudgetSpentError(
            f"{self._setting}: {spent:.2f} of {self._max_cost:.2f} US dollars are spent, and the next call could cost "
            f"{most:.2f}; raise {self._setting} and run the same command again: no answer is paid for twice."
        )
