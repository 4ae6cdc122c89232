"""Errors that a user is meant to read, asserted by code and values; the sentence only has to name the values."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydantic import ValidationError

from agentrefine.errors import UserError


@contextmanager
def refused(code: str, **values: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """Expect a `UserError` of this code with these values; its message is one sentence on one line.

    Example: `with refused("not_utf8", line=3) as caught: read_text(path, "correct it")`
    """
    with pytest.raises(UserError) as caught:
        yield caught
    error = caught.value
    assert error.code == code, f"{error.code}: {error}"
    assert {name: error.values.get(name) for name in values} == values
    assert "\n" not in str(error)


@contextmanager
def misfit(**values: object) -> Iterator[None]:
    """Expect that a section of the parameters is refused for values that do not fit together, with these values.

    Example: `with misfit(key="teacher.processes", most=1): ...`
    """
    with pytest.raises(ValidationError) as caught:
        yield
    cause = caught.value.errors()[0]["ctx"]["error"].__cause__
    assert {name: cause.values.get(name) for name in values} == values
