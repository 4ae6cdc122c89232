"""Fixtures that several test files share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import flows  # first: it says where Prefect keeps its state, and that the tests' servers are reached without a proxy
from agentrefine.llm.journal import Journal

assert flows.__doc__


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """An empty journal."""
    with Journal(tmp_path / "answers.sqlite") as opened:
        yield opened


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small data set's folder."""
    from tests.helpers.tuning_samples import write_data_set  # imports torch

    return write_data_set(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base model's folder."""
    from tests.helpers.tuning_samples import write_base

    return write_base(tmp_path_factory.mktemp("base"))
