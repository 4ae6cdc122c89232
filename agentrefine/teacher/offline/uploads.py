"""Reads the multipart form by which a file is uploaded."""

from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import NamedTuple

from agentrefine.teacher.offline.errors import ApiError

PURPOSE = "batch"


class Upload(NamedTuple):
    """An uploaded file.

    Attributes:
        filename: as the client calls it.
        content: its bytes.
    """

    filename: str
    content: bytes


def read_upload(content_type: str, body: bytes) -> Upload:
    """The file of a form with the fields `purpose` and `file`.

    Args:
        content_type: the request's header, which names the boundary.
        body: the request's body.

    Raises:
        ApiError: it is no such form, asks for something else, or the file is not for batches.
    """
    if not content_type.startswith("multipart/form-data"):
        raise ApiError(400, "A file is uploaded as multipart/form-data, with the fields purpose and file.")
    form = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode("latin-1") + body)
    if not form.is_multipart() or form.defects:
        raise ApiError(400, "The multipart form cannot be read; is its boundary right?")
    parts = {str(part.get_param("name", header="content-disposition")): part for part in form.iter_parts()}
    for name in sorted(parts.keys() - {"purpose", "file"}):
        raise ApiError(400, f"{name}: this server knows the fields purpose and file only.", param=name)
    for name in ("purpose", "file"):
        if name not in parts:
            raise ApiError(400, f"Missing required parameter: '{name}'.", param=name)
    purpose = _content(parts["purpose"]).decode("utf-8", "replace")
    if purpose != PURPOSE:
        raise ApiError(400, f"{purpose!r} is no purpose of this server, which has {PURPOSE!r} only.", param="purpose")
    filename = parts["file"].get_filename()
    if filename is None or not filename.endswith(".jsonl"):
        raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
    return Upload(filename, _content(parts["file"]))


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content
