"""The money of a run: what calls have cost, and a limit that no call may take it beyond."""

from agentrefine.errors import UserError
from agentrefine.teacher.shared_numbers import SharedNumbers
from agentrefine.teacher.throttle import sleep_unless_stopped

SPENDING_NUMBERS = ("spent", "reserved")
_SECONDS_BETWEEN_LOOKS = 0.2


class BudgetSpentError(UserError):
    """The next call could cost more than is left of `teacher.max_cost`."""


class Spending:
    """What the calls of all processes have cost, in US dollars, kept below a limit.

    Before a call goes out, the most that it can cost is reserved; its real cost takes that place when it is answered.
    So the limit is never passed as long as the endpoint counts what it bills. Answers from the journal count too: the
    limit is one for the data set, and a rerun does not begin at zero.
    """

    def __init__(self, numbers: SharedNumbers, max_cost: float | None) -> None:
        """Join the other processes.

        Args:
            numbers: made with `SPENDING_NUMBERS` among its names.
            max_cost: the limit; None for no limit.
        """
        self._numbers = numbers
        self._max_cost = max_cost

    async def reserve(self, most: float) -> None:
        """Wait until `most` is free, which calls in flight may set free.

        Raises:
            BudgetSpentError: it is not, and no call is in flight any more.
            StoppedError: the run is ending. What a process had reserved that died is never set free.
        """
        while not self._reserved(most):
            await sleep_unless_stopped(self._numbers, _SECONDS_BETWEEN_LOOKS)

    def settle(self, reserved: float, cost: float) -> None:
        """A call is over: `cost` instead of the `reserved` most."""
        with self._numbers.locked() as numbers:
            numbers["reserved"] = max(0.0, numbers["reserved"] - reserved)
            numbers["spent"] += cost

    def _reserved(self, most: float) -> bool:
        with self._numbers.locked() as numbers:
            spent, reserved = numbers["spent"], numbers["reserved"]
            if self._max_cost is None or spent + reserved + most <= self._max_cost:
                numbers["reserved"] = reserved + most
                return True
        if reserved > 1e-9:  # what rounding leaves is no call
            return False
        raise BudgetSpentError(
            f"teacher.max_cost: {spent:.2f} of {self._max_cost:.2f} US dollars are spent, and the next call could cost "
            f"{most:.2f}; raise teacher.max_cost and run the same command again: no answer is paid for twice."
        )
