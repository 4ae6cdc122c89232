"""The records of foreign data sets, one at a time: JSON lists, JSON lines and parquet of any size."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agentrefine import files
from agentrefine.errors import UserError
from agentrefine.files import Record


def read_records(file: Path) -> Iterator[Record]:
    """The records of a `.parquet` file, a JSON list, or a file with one JSON value a line.

    Memory holds one record (parquet: one batch of rows), however large the file.

    Raises:
        UserError: the file is missing, or not what its ending or its first character says; names line or element.
    """
    if file.suffix == ".parquet" and file.is_file():
        return _parquet(file)
    return files.read_records(file, "correct the path")


def _parquet(file: Path) -> Iterator[Record]:
    try:
        with pq.ParquetFile(file) as opened:
            number = 0
            for batch in opened.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(f"{file}, row {number}", row)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read as parquet ({error}); fetch it again.") from error
