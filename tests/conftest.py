"""Fixtures that several test files share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentrefine.teacher.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal."""
    with Journal(tmp_path / "answers.sqlite") as opened:
        yield opened
