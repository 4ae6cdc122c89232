"""General chat in ShareGPT's format, in which every reply is trained unless a flag says otherwise.

Two spellings are in use: `{"conversations": [{"from": "human", "value": ...}, ...]}`, as FastChat reads it
(https://github.com/lm-sys/FastChat/blob/main/fastchat/train/train.py), and `{"messages": [{"role": "user", "content":
...}, ...]}`, as TRL and OpenAI name it; both are also mixed.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from agentrefine.conversation import Sample
from agentrefine.exchange.chats import ChatCounts, Layout, read_chats

SHAREGPT = (
    Layout("id", "conversations", "from", "value"),
    Layout("id", "messages", "role", "content"),
    Layout("id", "conversations", "role", "content"),
    Layout("id", "messages", "from", "value"),
)


def read_sharegpt(file: Path, counts: ChatCounts | None = None, ignored: Collection[str] = ()) -> Iterator[Sample]:
    """The chats of a JSON list, a JSON-lines or a parquet file, one at a time.

    Chats that cannot be trained on (a tool's role, nothing trained) are left out and counted by rule, as are parts of
    the others. `persona_id` is empty.

    Args:
        file: the chats.
        counts: where to add what became of them.
        ignored: keys that are left out, whatever they say.

    Raises:
        UserError: the file is missing or broken, or a record is no chat; names line or element.
    """
    return read_chats(file, SHAREGPT, counts, ignored)
