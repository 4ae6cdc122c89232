"""Works on batches: validates their input, answers their requests one after the other, and ends them."""

import asyncio
import time
from collections.abc import Callable, Sequence

from agentrefine.teacher.offline.batch_lines import BatchInput, InputLine, executed, not_executed, read_input
from agentrefine.teacher.offline.batch_store import (
    UNFINISHED,
    Batch,
    BatchError,
    BatchErrors,
    BatchStore,
    RequestCounts,
    Status,
    is_good,
)
from agentrefine.teacher.offline.errors import ApiError

WINDOW_SECONDS = 24 * 3600
LONGEST_SLEEP = 0.1
"""Seconds until a batch that waits notices that it was cancelled."""

AnswerLine = Callable[[dict[str, object], str], tuple[int, dict[str, object]]]
"""Answers the body of a batch's request, given the batch's id: HTTP status and body."""


class Batches:
    """All batches of a server; each unfinished one has a task that works on it."""

    def __init__(self, store: BatchStore, answer: AnswerLine, *, seconds: float, window_seconds: float) -> None:
        """Prepare the work.

        Args:
            store: keeps files and batches; what it holds unfinished is taken up by `resume`.
            answer: answers one request.
            seconds: how long a batch is in progress at least; its requests are spread evenly over that time.
            window_seconds: how long after its creation a batch expires.
        """
        self._store = store
        self._answer = answer
        self._seconds = seconds
        self._window_seconds = window_seconds
        self._tasks: set[asyncio.Task[None]] = set()

    def create(
        self, input_file_id: str, endpoint: str, completion_window: str, metadata: dict[str, str] | None
    ) -> Batch:
        """A new batch, which is worked on from now on."""
        batch = self._store.add_batch(input_file_id, endpoint, completion_window, metadata, self._window_seconds)
        self._start(batch.id)
        return batch

    def resume(self) -> None:
        """Go on with the batches that another server has left unfinished."""
        for batch in self._store.batches():
            if batch.status in UNFINISHED:
                self._start(batch.id)

    def cancel(self, batch_id: str) -> Batch:
        """Have a batch end soon; its requests that are answered already stay answered.

        Raises:
            ApiError: there is no such batch (404), or it has ended (409).
        """
        batch = self._store.batch(batch_id)
        if batch.status not in UNFINISHED:
            raise ApiError(409, f"Cannot cancel a batch with status '{batch.status}'.")
        if batch.status != "cancelling":
            self._update(batch_id, status="cancelling", cancelling_at=_now())
        return self._store.batch(batch_id)

    def _start(self, batch_id: str) -> None:
        # The event loop itself keeps no task alive.
        task = asyncio.create_task(self._work(batch_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, batch_id: str) -> None:
        requests = self._input(batch_id)
        if requests.errors:
            self._update(batch_id, status="failed", failed_at=_now(), errors=BatchErrors(data=requests.errors))
            return
        if self._store.batch(batch_id).status == "validating":
            counts = RequestCounts(total=len(requests.lines), completed=0, failed=0)
            self._update(batch_id, status="in_progress", in_progress_at=_now(), request_counts=counts)
        await self._answer_all(batch_id, requests.lines)
        batch = self._store.batch(batch_id)
        if batch.status == "cancelling":
            self._end(batch_id, requests.lines, "cancelled", "batch_cancelled")
        elif len(self._store.results(batch_id)) < len(requests.lines):
            self._end(batch_id, requests.lines, "expired", "batch_expired")
        else:
            self._update(batch_id, status="finalizing", finalizing_at=_now())
            self._end(batch_id, requests.lines, "completed", None)

    def _input(self, batch_id: str) -> BatchInput:
        file_id = self._store.batch(batch_id).input_file_id
        try:
            return read_input(self._store.content(file_id))
        except ApiError as error:
            return BatchInput([], [BatchError(code="file_not_found", message=str(error), param="input_file_id")])

    async def _answer_all(self, batch_id: str, lines: Sequence[InputLine]) -> None:
        """Answer the requests that have no result yet, until the batch is cancelled or has expired."""
        pause = self._seconds / len(lines)
        due = time.monotonic()
        for line in lines[len(self._store.results(batch_id)) :]:
            due += pause
            if not await self._wait(batch_id, due):
                return
            status, body = self._answer(line.body, batch_id)
            self._store.add_result(batch_id, executed(batch_id, line.custom_id, status, body))

    async def _wait(self, batch_id: str, due: float) -> bool:
        """Sleep until a time of the monotonic clock; False if the batch must end before."""
        while True:
            # Even a sleep of no time lets other requests be answered.
            await asyncio.sleep(min(max(due - time.monotonic(), 0), LONGEST_SLEEP))
            batch = self._store.batch(batch_id)
            if batch.status == "cancelling" or time.time() >= batch.expires_at:
                return False
            if time.monotonic() >= due:
                return True

    def _end(self, batch_id: str, lines: Sequence[InputLine], status: Status, code: str | None) -> None:
        """Make the batch's files; requests that were not executed get an error of that code."""
        results = self._store.results(batch_id)
        good = [line for line in results if is_good(line)]
        bad = [line for line in results if not is_good(line)]
        if code is not None:
            bad += [not_executed(batch_id, line.custom_id, code) for line in lines[len(results) :]]
        self._update(
            batch_id,
            status=status,
            output_file_id=self._file(f"{batch_id}_output.jsonl", good),
            error_file_id=self._file(f"{batch_id}_error.jsonl", bad),
            **{f"{status}_at": _now()},
        )

    def _file(self, name: str, lines: Sequence[bytes]) -> str | None:
        """A file of the lines; none where there are none, as OpenAI has it."""
        return self._store.add_file(name, "batch_output", b"\n".join(lines) + b"\n").id if lines else None

    def _update(self, batch_id: str, **changes: object) -> None:
        self._store.save(self._store.batch(batch_id).model_copy(update=changes))


def _now() -> int:
    return int(time.time())
