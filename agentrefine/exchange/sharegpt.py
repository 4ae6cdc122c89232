"""General chat in ShareGPT's format, in which every reply is trained (unless it has `loss` false).

Two spellings are in use: `{"conversations": [{"from": "human", "value": ...}, ...]}`, as FastChat reads it
(https://github.com/lm-sys/FastChat/blob/main/fastchat/train/train.py), and `{"messages": [{"role": "user", "content":
...}, ...]}`, as TRL and OpenAI name it.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from agentrefine.conversation import Sample
from agentrefine.exchange.chats import Layout, read_chats

SHAREGPT = (Layout("id", "conversations", "from", "value"), Layout("id", "messages", "role", "content"))


def read_sharegpt(file: Path, dropped: Counter[str] | None = None) -> Iterator[Sample]:
    """The chats of a JSON list, a JSON-lines or a parquet file, one at a time; every gpt message is trained.

    Chats that cannot be trained on (a tool's role, nothing trained) are left out and counted in `dropped` by rule.
    `persona_id` is empty.

    Raises:
        UserError: the file is missing or broken, or a record is no chat; names line or element.
    """
    return read_chats(file, SHAREGPT, dropped)
