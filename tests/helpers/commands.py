"""The command line in this process, for the error that a command ends with."""

from collections.abc import Callable

import pytest

from agentrefine.errors import UserError
from flows.cli import main


def failure(*words: str) -> UserError:
    """The error that a command raises before it is made a sentence."""
    caught_errors: list[UserError] = []

    def raised(body: Callable[[], object]) -> None:
        with pytest.raises(UserError) as caught:
            body()
        caught_errors.append(caught.value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.cli.exit_with_sentence", raised)
        main(words)
    return caught_errors[0]
