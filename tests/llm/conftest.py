"""What all tests of this folder need: keys, and short waits between tries."""

import pytest

from agentrefine.llm import endpoint
from tests.helpers.asking import SECRET
from tests.helpers.endpoint_players import KEY


@pytest.fixture(autouse=True)
def _keys_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv(KEY, SECRET)
    monkeypatch.setattr(endpoint, "_FIRST_BACKOFF_SECONDS", 0.05)
