"""Files and batches, in OpenAI's form: kept in memory, and in a folder too if they are to survive the server."""

import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import orjson
from pydantic import BaseModel

from agentrefine.errors import UserError
from agentrefine.files import atomic_write
from agentrefine.teacher.offline.errors import ApiError

Purpose = Literal["batch", "batch_output"]
Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
UNFINISHED: tuple[Status, ...] = ("validating", "in_progress", "finalizing", "cancelling")


class FileObject(BaseModel):
    """A file, as the API describes it. Times are Unix seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: Purpose
    status: Literal["processed"] = "processed"
    expires_at: int | None = None
    status_details: str | None = None


class BatchError(BaseModel):
    """Why an input file is refused."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(BaseModel):
    """All that is wrong with an input file."""

    object: Literal["list"] = "list"
    data: list[BatchError]


class RequestCounts(BaseModel):
    """How far a batch has come."""

    total: int
    completed: int
    failed: int

    def after(self, lines: Iterable[bytes]) -> "RequestCounts":
        """The counts when these results have come in."""
        good = [is_good(line) for line in lines]
        completed = self.completed + sum(good)
        return RequestCounts(total=self.total, completed=completed, failed=self.failed + len(good) - sum(good))


class Batch(BaseModel):
    """A batch, as the API describes it. Times are Unix seconds."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: BatchErrors | None = None
    input_file_id: str
    completion_window: str
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts(total=0, completed=0, failed=0)
    metadata: dict[str, str] | None = None


class BatchStore:
    """All files and batches. What a method has returned from is in the folder, if there is one."""

    def __init__(self, folder: Path | None) -> None:
        """Read what the folder holds.

        Args:
            folder: where it is all kept; made if it is not there. None: in memory only.

        Raises:
            UserError: the folder cannot be used.
        """
        self._folder = folder
        self._files: dict[str, FileObject] = {}
        self._contents: dict[str, bytes] = {}
        self._batches: dict[str, Batch] = {}
        self._results: dict[str, list[bytes]] = {}
        if folder is not None:
            try:
                self._read(folder)
            except OSError as error:
                raise UserError(f"{folder}: cannot be used ({error.strerror}); choose another --state.") from error

    def add_file(self, filename: str, purpose: Purpose, content: bytes) -> FileObject:
        """Keep a file under a new id."""
        # An id is a random number: a client that comes back to a server without its memory must not find another's.
        file = FileObject(
            id=f"file-{secrets.token_hex(12)}",
            bytes=len(content),
            created_at=int(time.time()),
            filename=filename,
            purpose=purpose,
        )
        if self._folder is not None:
            # A file whose description is there is complete.
            (self._folder / "files" / f"{file.id}.jsonl").write_bytes(content)
            _write(self._folder / "files" / f"{file.id}.json", file)
        self._files[file.id] = file
        self._contents[file.id] = content
        return file

    def file(self, file_id: str) -> FileObject:
        """A file's description. Raises ApiError (404) where there is none."""
        if file_id not in self._files:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return self._files[file_id]

    def content(self, file_id: str) -> bytes:
        """A file's bytes. Raises ApiError (404) where there is none."""
        return self._contents[self.file(file_id).id]

    def add_batch(
        self, input_file_id: str, endpoint: str, completion_window: str, metadata: dict[str, str] | None, seconds: float
    ) -> Batch:
        """A new batch, to be validated; it expires after so many seconds."""
        created = int(time.time())
        batch = Batch(
            # The number keeps batches in the order in which they were created.
            id=f"batch_{len(self._batches):06d}{secrets.token_hex(9)}",
            endpoint=endpoint,
            input_file_id=input_file_id,
            completion_window=completion_window,
            created_at=created,
            expires_at=created + int(seconds),
            metadata=metadata,
        )
        self.save(batch)
        return batch

    def save(self, batch: Batch) -> None:
        """Keep a batch as it is now."""
        if self._folder is not None:
            _write(self._folder / "batches" / f"{batch.id}.json", batch)
        self._batches[batch.id] = batch

    def batch(self, batch_id: str) -> Batch:
        """A batch. Raises ApiError (404) where there is none."""
        if batch_id not in self._batches:
            raise ApiError(404, f"No such Batch object: {batch_id}", param="id")
        return self._batches[batch_id]

    def batches(self) -> list[Batch]:
        """All batches, the newest first."""
        return [self._batches[batch_id] for batch_id in sorted(self._batches, reverse=True)]

    def add_result(self, batch_id: str, line: bytes) -> None:
        """Keep a line of a batch's output or error file, before the batch has ended."""
        if self._folder is not None:
            with (self._folder / "results" / f"{batch_id}.jsonl").open("ab") as handle:
                handle.write(line + b"\n")
        self._results.setdefault(batch_id, []).append(line)
        self._count(batch_id, [line])

    def results(self, batch_id: str) -> list[bytes]:
        """The lines kept so far, in their order."""
        return self._results.get(batch_id, [])

    def _read(self, folder: Path) -> None:
        for name in ("files", "batches", "results"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / "files").glob("file-*.json")):
            file = FileObject.model_validate_json(path.read_bytes())
            self._files[file.id] = file
            self._contents[file.id] = path.with_suffix(".jsonl").read_bytes()
        for path in sorted((folder / "batches").glob("batch_*.json")):
            batch = Batch.model_validate_json(path.read_bytes())
            self._batches[batch.id] = batch
            results = folder / "results" / f"{batch.id}.jsonl"
            self._results[batch.id] = results.read_bytes().splitlines() if results.is_file() else []
            if batch.status in UNFINISHED:
                self._count(batch.id, self._results[batch.id])

    def _count(self, batch_id: str, results: list[bytes]) -> None:
        # Counts are written with the batch when its status changes, and follow from its results until then.
        batch = self._batches[batch_id]
        counts = batch.request_counts.after(results)
        self._batches[batch_id] = batch.model_copy(update={"request_counts": counts})


def is_good(line: bytes) -> bool:
    """Whether a result belongs into the output file; the others go into the error file."""
    response = orjson.loads(line)["response"]
    return response is not None and response["status_code"] == 200


def _write(path: Path, record: BaseModel) -> None:
    with atomic_write(path) as handle:
        handle.write(record.model_dump_json())
