"""The four losses (paper, section 3.3 and the ablations of section 4) as choices of what a conversation trains."""

from collections.abc import Sequence
from itertools import pairwise

from agentrefine.game.conversation import Message
from agentrefine.params.tuning import Loss


def apply_loss(messages: Sequence[Message], loss: Loss) -> list[Message]:
    """The conversation as `loss` trains it: every assistant message with `loss` true or false.

    The first assistant message is the acknowledgement of the instructions where its `loss` is False, and never
    trained; where it is not False (general chat, data sets without an acknowledgement) it is a turn like any other.
    Another assistant message is a mistake where its `loss` is False.

    - `refinement`: mistakes stay in the context and are not trained.
    - `with_erroneous_loss`: mistakes are trained too.
    - `without_refinement_loss`: neither mistakes nor the turns directly after a mistake are trained.
    - `without_refinement_data`: each mistake is cut out together with the error observation that answers it, so the
      correcting turn answers the observation before the mistake. Its action is right there; its thought may still
      mention the error that is no longer shown (a limit of cutting: rewriting thoughts would be other data).
    """
    flagged = [m if m.role == "user" else m.model_copy(update={"loss": m.loss is not False}) for m in messages]
    if loss == "without_refinement_data":
        return _without_mistakes(flagged)
    if loss == "with_erroneous_loss":
        return _train_all(flagged)
    if loss == "without_refinement_loss":
        return _without_corrections(flagged)
    return flagged


def _played(messages: Sequence[Message]) -> list[int]:
    """Where the assistant's turns stand, without the acknowledgement."""
    replies = [index for index, m in enumerate(messages) if m.role == "assistant"]
    return replies[1:] if replies and messages[replies[0]].loss is False else replies


def _train_all(messages: list[Message]) -> list[Message]:
    played = set(_played(messages))
    return [m.model_copy(update={"loss": True}) if index in played else m for index, m in enumerate(messages)]


def _without_corrections(messages: list[Message]) -> list[Message]:
    corrections = {after for before, after in pairwise(_played(messages)) if not messages[before].loss}
    return [m.model_copy(update={"loss": False}) if index in corrections else m for index, m in enumerate(messages)]


def _without_mistakes(messages: list[Message]) -> list[Message]:
    mistakes = {index for index in _played(messages) if not messages[index].loss}
    kept: list[Message] = []
    error_follows = False
    for index, message in enumerate(messages):
        if index in mistakes:
            error_follows = True
        elif error_follows:
            error_follows = False
        else:
            kept.append(message)
    while kept and kept[-1].role == "user":
        kept.pop()
    return kept
